import { spawn, type ChildProcessWithoutNullStreams } from "node:child_process";
import { once } from "node:events";
import { mkdirSync, mkdtempSync, rmSync } from "node:fs";
import { createRequire } from "node:module";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { createInterface } from "node:readline";
import { describe, expect, test } from "vitest";
import { ControlServer, controlDirectory, controlPath } from "../src/node/control.js";
import { describeMachine } from "./control-rig.js";
import { Machine } from "./scenario-machine.js";

const root = dirname(createRequire(import.meta.url).resolve("@hyperv-is/hyperv-host/package.json"));
const program = join(root, "dist", "bin", "hyperv-host.js");

/** A directory of machines' sockets, and who runs in it. Each test has its own, so that they can wait beside each other. */
class Place implements Disposable {
  readonly directory = mkdtempSync(join(tmpdir(), "control-"));
  readonly environment = { ...process.env, XDG_RUNTIME_DIR: this.directory };
  /** Where the sockets of machines with a name are. */
  readonly sockets = controlDirectory(this.environment);
  readonly #open: { close(): void }[] = [];

  constructor() {
    mkdirSync(this.sockets, { mode: 0o700 });
  }

  /** Starts a machine with a control socket, up for twelve seconds. @param address - A name, or the path of the socket. */
  async start(address: string): Promise<{ guest: Machine; server: ControlServer }> {
    const guest = new Machine({
      faults: { faults: [{ kind: "rescind", device: "network" }] },
    });
    guest.timers.advance(12_345);
    const path = controlPath(address, this.sockets);
    const server = await ControlServer.listen(path, describeMachine(guest));
    this.#open.push(server);
    return { guest, server };
  }

  /** Has a machine of a name listen that never answers. @returns The path of its socket. */
  deaf(name: string): string {
    const path = controlPath(name, this.sockets);
    this.#open.push(createServer().listen(path));
    return path;
  }

  /** Starts a command. */
  command(...args: string[]): Command {
    return new Command(this.environment, args);
  }

  run(...args: string[]): Promise<Run> {
    return this.command(...args).ended();
  }

  [Symbol.dispose](): void {
    for (const one of this.#open) one.close();
    rmSync(this.directory, { recursive: true });
  }
}

interface Run {
  readonly status: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

/** A command that runs beside this thread, which has the machines. */
class Command {
  readonly process: ChildProcessWithoutNullStreams;
  readonly #ended: Promise<Run>;
  readonly #lines: AsyncIterator<string>;

  constructor(environment: NodeJS.ProcessEnv, args: readonly string[]) {
    this.process = spawn(process.execPath, [program, ...args], { env: environment });
    let stdout = "";
    let stderr = "";
    this.process.stdout.setEncoding("utf8").on("data", (text: string) => (stdout += text));
    this.process.stderr.setEncoding("utf8").on("data", (text: string) => (stderr += text));
    this.#lines = createInterface({ input: this.process.stdout })[Symbol.asyncIterator]();
    this.#ended = once(this.process, "close").then(([status]) => ({
      status: status as number | null,
      stdout,
      stderr,
    }));
  }

  ended(): Promise<Run> {
    return this.#ended;
  }

  /** The next line of its output. */
  async line(): Promise<string> {
    const { done, value } = (await this.#lines.next()) as IteratorResult<string, undefined>;
    if (done === true) throw new Error("the command has ended");
    return value;
  }
}

/** The cells of each line. */
const cellsOf = (text: string): string[][] =>
  text
    .trimEnd()
    .split("\n")
    .map((line) => line.split(/ {2,}/));
const json = ({ stdout }: Run): unknown => JSON.parse(stdout);

describe.concurrent("hyperv-host list", () => {
  test("shows the machines with a name, for people and for programs", async () => {
    using place = new Place();
    const { guest } = await place.start("web");
    await place.start("db");
    await place.start(join(place.directory, "elsewhere.sock"));
    guest.connect();
    guest.partition.server.violations.record("rule", "detail");
    const deaf = place.deaf("deaf");
    const [text, objects] = await Promise.all([place.run("list"), place.run("list", "--json")]);
    expect([text.status, text.stderr]).toEqual([
      0,
      `hyperv-host: ${deaf}: no answer for 2000 ms\n`,
    ]);
    const { pid } = process;
    expect(cellsOf(text.stdout)).toEqual([
      ["NAME", "STATE", "CPUS", "MEMORY", "UPTIME", "VMBUS", "VIOLATIONS", "PID", "PROGRAM"],
      ["db", "running", "1", "4.3M", "00:00:12", "-", "0", `${pid}`, "test 1.2.3"],
      ["deaf", "unreachable", "-", "-", "-", "-", "-", "-", "-"],
      ["web", "running", "1", "4.3M", "00:00:12", "5.3", "1", `${pid}`, "test 1.2.3"],
    ]);
    expect(json(objects)).toMatchObject([
      { name: "db", state: "running", busVersion: null },
      { name: "deaf", state: "unreachable", path: deaf },
      { name: "web", state: "running", busVersion: "5.3", processId: process.pid, violations: 1 },
    ]);
  });

  test("shows none where there is none, and one by its path", async () => {
    using place = new Place();
    await place.start(join(place.directory, "a.sock"));
    const [none, empty, one, missing] = await Promise.all([
      place.run("list"),
      place.run("list", "--json"),
      place.run("list", join(place.directory, "a.sock"), "--json"),
      place.run("list", "web"),
    ]);
    expect([none.status, none.stdout.split("\n").length, none.stderr]).toEqual([0, 2, ""]);
    expect(json(empty)).toEqual([]);
    expect(json(one)).toMatchObject([{ name: "a", path: join(place.directory, "a.sock") }]);
    expect(missing).toEqual({
      status: 1,
      stdout: "",
      stderr: `hyperv-host: ${place.sockets}/web.sock: no machine listens there\n`,
    });
  });

  test("--watch shows them again, until Ctrl-C", async () => {
    using place = new Place();
    await place.start("web");
    const command = place.command("list", "--watch", "--json");
    const first = JSON.parse(await command.line()) as { machines: object[] };
    expect(first).toMatchObject({ machines: [{ name: "web" }] });
    await place.start("db");
    const names = async (): Promise<string[]> => {
      const { machines } = JSON.parse(await command.line()) as { machines: { name: string }[] };
      return machines.map(({ name }) => name);
    };
    while ((await names()).length === 1);
    expect(await names()).toEqual(["db", "web"]);
    command.process.kill("SIGINT");
    expect(await command.ended()).toMatchObject({ status: 130, stderr: "" });
  });
});

describe.concurrent("hyperv-host stats", () => {
  test("shows one machine or all of them, for people and for programs", async () => {
    using place = new Place();
    const { guest } = await place.start("web");
    await place.start("db");
    const channel = guest.openFirst();
    channel.echoes(3);
    const [text, one, all] = await Promise.all([
      place.run("stats", "web"),
      place.run("stats", "web", "--json"),
      place.run("stats", "--json"),
    ]);
    expect([text.status, text.stderr]).toEqual([0, ""]);
    expect(text.stdout).toContain("web: test 1.2.3, up 00:00:12\nVMBus 5.3 connected: ");
    expect(text.stdout).toMatch(/\n1 +SCSI +0 +open +0 +3 +3 +\d+ +\d+ +0\n/);
    expect(text.stdout).toMatch(/\nrescind network +1\n/);
    expect(json(one)).toMatchObject({
      name: "web",
      bus: { version: "5.3" },
      channels: [{ relid: 1, packetsIn: 3 }],
      faults: [{ kind: "rescind", device: "network", happened: 1 }],
    });
    expect(json(all)).toMatchObject([{ name: "db" }, { name: "web" }]);
  });

  test("--watch shows what is counted, until the machine ends", async () => {
    using place = new Place();
    const { guest, server } = await place.start("web");
    const channel = guest.openFirst();
    const objects = place.command("stats", "web", "--watch", "--json");
    const text = place.command("stats", "web", "--watch");
    const packets = async (): Promise<number> => {
      const { channels } = JSON.parse(await objects.line()) as {
        channels: { packetsIn: number }[];
      };
      return channels[0]!.packetsIn;
    };
    const rates = async (): Promise<string> => {
      for (let line = await text.line(); ; line = await text.line())
        if (line.includes(" open ")) return line.replace(/ +/g, " ");
    };
    expect(await packets()).toBe(0);
    expect(await rates()).toContain(" open 0 0 0 ");
    channel.echoes(6);
    guest.timers.advance(2000);
    while ((await packets()) === 0);
    let moved = await rates();
    while (moved.includes(" open 0 0 0 ")) moved = await rates();
    expect(moved).toContain(" open 0 3.0 3.0 ");
    server.close();
    for (const command of [objects, text])
      expect(await command.ended()).toMatchObject({
        status: 0,
        stderr: `hyperv-host: ${server.path}: the machine has ended\n`,
      });
  });

  test("--watch ends with a signal, and when nobody reads", async () => {
    using place = new Place();
    await place.start("web");
    const interrupted = place.command("stats", "--watch");
    const unread = place.command("stats", "web", "--watch");
    await Promise.all([interrupted.line(), unread.line()]);
    interrupted.process.kill("SIGTERM");
    unread.process.stdout.destroy();
    expect(await interrupted.ended()).toMatchObject({ status: 143, stderr: "" });
    expect(await unread.ended()).toMatchObject({ status: 141, stderr: "" });
  });
});

describe.concurrent("hyperv-host violations", () => {
  test("shows what the guest did wrong, for people and for programs", async () => {
    using place = new Place();
    const { guest } = await place.start("web");
    await place.start("db");
    const { violations } = guest.partition.server;
    violations.record("open-ring", "an \u001b[31mevil\u009b text", 7);
    guest.timers.advance(100);
    violations.record("msr-access", "value 0x1", undefined, 3);
    const [text, objects] = await Promise.all([
      place.run("violations"),
      place.run("violations", "web", "--json"),
    ]);
    expect(text).toEqual({
      status: 0,
      stdout:
        "db: the guest has broken no rule\n\n" +
        "web         12.345  7     open-ring: an \\x1b[31mevil\\x9b text\n" +
        "web         12.445  -     msr-access: value 0x1\n" +
        "web                       msr-access: 2 more\n",
      stderr: "",
    });
    expect(json(objects)).toEqual({
      name: "web",
      rules: { "open-ring": 1, "msr-access": 3 },
      violations: [
        { rule: "open-ring", detail: "an \u001b[31mevil\u009b text", relid: 7, atMs: 12_345 },
        { rule: "msr-access", detail: "value 0x1", relid: null, atMs: 12_445 },
      ],
    });
  });

  test("--watch follows new ones, those that are only counted too", async () => {
    using place = new Place();
    const { guest, server } = await place.start("web");
    const { violations } = guest.partition.server;
    for (let count = 1; count <= 998; count++) violations.record("old", `${count}`);
    const command = place.command("violations", "web", "--watch", "--json");
    const next = async (): Promise<unknown> => JSON.parse(await command.line());
    for (let count = 1; count <= 998; count++)
      expect(await next()).toMatchObject({ name: "web", rule: "old", detail: `${count}` });
    violations.record("new", "999");
    expect(await next()).toEqual({
      name: "web",
      rule: "new",
      detail: "999",
      relid: null,
      atMs: 12_345,
    });
    for (const rule of ["new", "new", "other"]) violations.record(rule, "1000 and more");
    expect(await next()).toMatchObject({ rule: "new", detail: "1000 and more" });
    expect(await next()).toEqual({ name: "web", rule: "new", more: 1 });
    expect(await next()).toEqual({ name: "web", rule: "other", more: 1 });
    server.close();
    expect(await command.ended()).toMatchObject({ status: 0 });
  });
});

describe.concurrent("a wrong command line", () => {
  test.each([
    ["two machines", ["stats", "a", "b"], "stats: one VM, please"],
    ["a word that is no name", ["violations", "a b"], "'a b' is no name for a machine"],
    ["an unknown option", ["list", "--frob"], "--frob"],
  ])("%s ends with status 2", async (_, args, message) => {
    using place = new Place();
    const { status, stdout, stderr } = await place.run(...args);
    expect([status, stdout]).toEqual([2, ""]);
    expect(stderr).toContain(message);
    expect(stderr).toContain("usage: hyperv-host");
  });

  test("--help behind a command is none", async () => {
    using place = new Place();
    const { status, stdout, stderr } = await place.run("vm", "kvp", "--help");
    expect([status, stderr]).toEqual([0, ""]);
    expect(stdout).toContain("usage: hyperv-host");
  });

  test("without machines there is nothing to show", async () => {
    using place = new Place();
    for (const verb of ["stats", "violations"])
      expect(await place.run(verb)).toEqual({
        status: 1,
        stdout: "",
        stderr: `hyperv-host: ${place.sockets} has no machine that runs; 'boot --control NAME' starts one\n`,
      });
  });
});
