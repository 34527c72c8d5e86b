import { expect, test } from "vitest";
import { demoProcesses, failover, runFailoverDemo } from "./failover-demo.js";

const nothing = { files: [], processes: [] };
/** Longer than the demo takes before it gives up. */
const TIMEOUT_MS = 90_000;

test(
  "a guest that was killed is reached on another host, at the address that this one has given it",
  async () => {
    const report = await failover();
    expect(report).toMatchObject({
      kind: "kill",
      addresses: { before: "192.0.2.10", after: "198.51.100.10" },
      addressesAfterRestart: ["198.51.100.10/24"],
    });
    expect(report.diskSha256).toMatch(/^[\da-f]{64}$/);
    // How long it takes on a machine that does nothing else is for `npm run soak -- failover` to say.
    console.log(`${report.firstAnswerMs} ms from the start of the host to the first answer`);
  },
  TIMEOUT_MS,
);

test.each([
  ["SIGINT", 130, "Both hosts share"],
  ["SIGTERM", 143, "A: the guest has written"],
] as const)("%s ends it, and leaves nothing", async (signal, status, moment) => {
  const ended = await runFailoverDemo([], (said, kill) => {
    if (said.includes(moment)) kill(signal);
  });
  expect(ended).toMatchObject({ status, stderr: "", rest: nothing });
  expect(ended.stdout).not.toContain("first answer");
});

test("a host that ends too early ends it, and leaves nothing", async () => {
  const ended = await runFailoverDemo([], (said) => {
    if (!said.includes("A: the guest has written") || said.includes("vm ip set")) return;
    for (const pid of demoProcesses("A.sock")) process.kill(pid, "SIGKILL");
  });
  expect(ended).toMatchObject({ status: 1, rest: nothing });
  expect(ended.stderr).toMatch(/^guest-kernel: (?:host|client) A has ended/);
});

test("its options are checked", async () => {
  const { status, stderr } = await runFailoverDemo(["--frob"]);
  expect(status).toBe(2);
  expect(stderr).toContain("Unknown option '--frob'");
});
