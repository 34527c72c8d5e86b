import { execFileSync } from "node:child_process";
import { fileURLToPath } from "node:url";
import { describe, expect, test } from "vitest";
import { allowedCpus, placeThreads, startWorker, type ThreadPin } from "@hyperv-is/platform-node";
import { whyNot } from "./koffi.js";

const reason = whyNot("CPUs of threads");
if (reason !== undefined) console.warn(reason);

/** The CPUs that the kernel says a worker may use, such as "0-1". */
async function cpusOfWorker(pin?: ThreadPin): Promise<string | undefined> {
  let hear: (status: string) => void = () => undefined;
  const heard = new Promise<string>((resolve) => (hear = resolve));
  const worker = startWorker<unknown, string>({
    entry: new URL("./workers/subject.js", import.meta.url),
    name: "subject",
    data: { kind: "blocking" },
    pin,
    onMessage: (status) => hear(status),
  });
  worker.post({ command: "status" });
  const status = await heard;
  await worker.stop();
  return /^Cpus_allowed_list:\s*(\S+)$/m.exec(status)?.[1];
}

describe.skipIf(reason !== undefined)("threads on CPUs", () => {
  test("a worker stays on the CPU that it is given, and its starter where it likes", async () => {
    const before = allowedCpus();
    const cpus = [before.at(-1)!, before[0]!];
    for (const cpu of cpus) expect(await cpusOfWorker({ cpu, isShared: false })).toBe(String(cpu));
    expect(allowedCpus()).toEqual(before);
    if (before.length > 1) expect(await cpusOfWorker()).not.toBe(String(before[0]));
  });

  test("who shares a CPU is known", () => {
    const [cpu = 0] = allowedCpus();
    expect(placeThreads({})).toEqual(new Map());
    expect(placeThreads({ one: cpu })).toEqual(new Map([["one", { cpu, isShared: false }]]));
    const pins = placeThreads({ one: cpu, other: cpu });
    expect([...pins.values()].map(({ isShared }) => isShared)).toEqual([true, true]);
  });

  test.each([-1, 8191, 8192, 1.5, NaN])("there is no CPU %d", (cpu) => {
    expect(() => placeThreads({ vcpu0: cpu })).toThrow(
      expect.objectContaining({
        code: "ERR_AFFINITY",
        message: `vcpu0 cannot be pinned to CPU ${cpu}: this program may use ${allowedCpus().join(", ")}, as 'taskset -cp ${process.pid}' says`,
      }),
    );
  });

  test("a worker that cannot be pinned ends, and says why", async () => {
    const worker = startWorker({
      entry: new URL("./workers/subject.js", import.meta.url),
      name: "subject",
      data: { kind: "blocking" },
      pin: { cpu: 8191, isShared: false },
    });
    const { error } = await worker.exited;
    expect(error).toMatchObject({
      code: "ERR_AFFINITY",
      message: "the CPU of a thread cannot be 8191 (EINVAL)",
    });
  });

  test("a CPU that this program may not use is refused", () => {
    const [first, second] = allowedCpus();
    if (second === undefined) return;
    expect(attempt({ vcpu0: second }, ["taskset", "-c", String(first)])).toMatch(
      new RegExp(`^ERR_AFFINITY vcpu0 .* CPU ${second}: this program may use ${first}, as `),
    );
  });

  test("says that koffi is missing", () => {
    const hide = `const { createRequire } = await import("node:module");
      const module = createRequire("/")("node:module");
      const find = module._resolveFilename;
      module._resolveFilename = (name, ...rest) => {
        if (name === "koffi") throw Object.assign(new Error("no koffi"), { code: "MODULE_NOT_FOUND" });
        return find(name, ...rest);
      };`;
    expect(attempt({ vcpu0: 0 }, [], preload(hide))).toBe(
      "ERR_KOFFI_MISSING pinned threads need the package koffi, which is optional and not installed: npm install koffi",
    );
    expect(attempt({}, [], preload(hide))).toBe("placed");
  });
});

test("says that it takes Linux", () => {
  const elsewhere = 'Object.defineProperty(process, "platform", { value: "darwin" });';
  expect(attempt({ vcpu0: 0 }, [], preload(elsewhere))).toBe(
    "ERR_AFFINITY_UNSUPPORTED threads can be pinned to CPUs on Linux only: leave that out",
  );
});

const dist = fileURLToPath(new URL("../dist/index.js", import.meta.url));
const PLACE = `import { placeThreads } from ${JSON.stringify(dist)};
  try { placeThreads(JSON.parse(process.argv[1])); console.log("placed"); }
  catch (error) { console.log(error.code + " " + error.message); }`;

/** What becomes of pins in a program of its own. */
function attempt(
  cpus: Readonly<Record<string, number>>,
  around: readonly string[] = [],
  node: readonly string[] = [],
): string {
  const script = ["--input-type=module", "-e", PLACE, JSON.stringify(cpus)];
  const [command, ...args] = [...around, process.execPath, ...node, ...script];
  return execFileSync(command!, args, { encoding: "utf8" }).trim();
}

function preload(module: string): readonly string[] {
  return ["--import", `data:text/javascript,${encodeURIComponent(module)}`];
}
