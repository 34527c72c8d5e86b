import { execFileSync, spawn, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { boot, type BootOptions, type Machine } from "@hyperv-is/guest-kernel";
import { BenchmarkError } from "../benchmark.js";
import { buildNative } from "../native-program.js";
import { runPeer } from "../peer-program.js";
import type { ProcessorTime } from "../processor-time.js";

/** What TUNSETOFFLOAD is given: checksums, TCP over IPv4 and IPv6. */
const EVERY_OFFLOAD = 7;
const START_TIMEOUT_MS = 10_000;
const LOOK_MS = 20;
const [NEAR_ADDRESS, FAR_ADDRESS] = ["192.0.2.1", "192.0.2.2"];
const DEVICE = "tap0";

/** How TCP goes over a path. */
export interface Transfer {
  /** Of the near side, and the one at which `listen` has a server; any unless told. */
  readonly ports?: { readonly near: number; readonly far: number };
  /** From the far side to the near one. */
  readonly isBack?: boolean;
}

let paths = 0;

/** What is still to be taken down when the process ends before its paths are disposed of. */
const remains = new Set<() => void>();
process.once("exit", () => {
  for (const remove of [...remains].reverse()) remove();
});

/**
 * Two network namespaces with a TAP in each, and what is measured in between: something that carries frames from one to
 * the other. An iperf3 server waits in the far one. The processor time of what runs here counts as ours.
 */
export class NetworkPath implements AsyncDisposable {
  readonly near: string;
  readonly far: string;
  readonly #cleanUps: (() => unknown)[] = [];
  readonly #processorTime: ProcessorTime;

  private constructor(processorTime: ProcessorTime) {
    this.#processorTime = processorTime;
    const name = `hvis-bench-${process.pid}-${paths++}`;
    this.near = `${name}-a`;
    this.far = `${name}-b`;
  }

  /** The guest of a booted machine at a switch with an uplink: from a TAP over netvsc and the switch to another TAP. */
  static async ofGuest(
    processorTime: ProcessorTime,
    options: Pick<BootOptions, "cpus" | "hostThreads">,
  ): Promise<[NetworkPath, Machine]> {
    const path = new NetworkPath(processorTime);
    let machine: Machine | undefined;
    await path.#connect(async () => {
      machine = await boot({
        ...options,
        nics: [{ switch: "lan", stack: { kind: "tap", name: DEVICE, netns: path.near } }],
        switches: [{ name: "lan", uplinks: [{ kind: "tap", name: DEVICE, netns: path.far }] }],
      });
      path.#cleanUps.push(() => machine!.shutdown());
    });
    return [path, machine!];
  }

  /** A program in C that reads and writes. @param tso - TCP super-frames pass whole. */
  static ofForwarder(processorTime: ProcessorTime, tso: boolean): Promise<NetworkPath> {
    return new NetworkPath(processorTime).#connect(async (path) => {
      const program = await buildNative("forward");
      const offload = String(tso ? EVERY_OFFLOAD : 0);
      const child = path.#start(program, path.near, DEVICE, path.far, DEVICE, offload);
      await once(child.stdout!, "data");
    });
  }

  /** vde_switch, with a TAP plugged in at each side. */
  static ofVde(processorTime: ProcessorTime): Promise<NetworkPath> {
    return new NetworkPath(processorTime).#connect(async (path) => {
      const directory = mkdtempSync(join(tmpdir(), "hyperv-is-vde-"));
      path.#cleanUps.push(() => rmSync(directory, { recursive: true, force: true }));
      const control = join(directory, "switch");
      path.#start("vde_switch", "-sock", control);
      await delay(200);
      for (const namespace of [path.near, path.far])
        path.#start("ip", "netns", "exec", namespace, "vde_plug2tap", "-s", control, DEVICE);
      await delay(200);
    });
  }

  /** Switches segmentation by the TAPs on or off: what the kernel's TCP sends, for both ends. */
  setSegmentation(on: boolean): void {
    for (const namespace of [this.near, this.far])
      ip("netns", "exec", namespace, "ethtool", "-K", DEVICE, "tso", on ? "on" : "off");
  }

  /** Sends so many megabits by TCP from the near side to the far one, or back. @returns Seconds. */
  async send(megabits: number, { ports, isBack = false }: Transfer = {}): Promise<number> {
    const sentBytes = Math.ceil(megabits * 125_000);
    const args = ["-c", FAR_ADDRESS, "-J", "-n", String(sentBytes)];
    if (isBack) args.push("-R");
    if (ports !== undefined) args.push("-p", String(ports.far), "--cport", String(ports.near));
    const printed = await this.#inside("iperf3", args, "iperf3");
    const { end } = JSON.parse(printed) as {
      readonly end: { readonly sum_received: { readonly seconds: number; readonly bytes: number } };
    };
    const { seconds, bytes: arrived } = end.sum_received;
    if (!(arrived > 0)) throw new BenchmarkError(`nothing came over ${this.near}`);
    // What is in flight at the end is not counted there, and the time that it takes is not either.
    return (seconds * sentBytes) / arrived;
  }

  /** Has further servers in the far namespace, each at a port. */
  async listen(ports: readonly number[]): Promise<void> {
    for (const port of ports)
      this.#start("ip", "netns", "exec", this.far, "iperf3", "-s", "-p", String(port));
    await delay(200);
  }

  /** Pings across, one at a time with pauses. @returns Microseconds of a round trip on average. */
  async ping(count: number): Promise<number> {
    const args = ["-q", "-c", String(count), "-i", "0.05", FAR_ADDRESS];
    const printed = await this.#inside("ping", args, "iputils-ping");
    return Number(/= [\d.]+\/([\d.]+)\//.exec(printed)?.[1]) * 1000;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const cleanUp of this.#cleanUps.splice(0).reverse()) await cleanUp();
  }

  async #connect(connect: (path: NetworkPath) => Promise<unknown>): Promise<this> {
    try {
      for (const namespace of [this.near, this.far]) {
        ip("netns", "add", namespace);
        const remove = (): void => ip("netns", "delete", namespace);
        this.#cleanUps.push(() => {
          remains.delete(remove);
          remove();
        });
        remains.add(remove);
      }
      await connect(this);
      for (const [namespace, address] of [
        [this.near, NEAR_ADDRESS],
        [this.far, FAR_ADDRESS],
      ] as const) {
        ip("-n", namespace, "address", "add", `${address}/24`, "dev", DEVICE);
        ip("-n", namespace, "link", "set", DEVICE, "up");
      }
      this.#start("ip", "netns", "exec", this.far, "iperf3", "-s");
      await this.#answers();
      return this;
    } catch (error) {
      await this[Symbol.asyncDispose]();
      throw error;
    }
  }

  /** Waits until a ping crosses: an interface may be up later than its program. */
  async #answers(): Promise<void> {
    const until = performance.now() + START_TIMEOUT_MS;
    while (performance.now() < until) {
      const came = await this.#inside("ping", ["-c", "1", "-W", "1", FAR_ADDRESS], "ping").catch(
        () => undefined,
      );
      if (came !== undefined) return;
      await delay(LOOK_MS);
    }
    throw new BenchmarkError(`no ping crosses from ${this.near} to ${this.far}`);
  }

  #inside(command: string, args: readonly string[], debianPackage: string): Promise<string> {
    return runPeer("ip", ["netns", "exec", this.near, command, ...args], debianPackage);
  }

  #start(command: string, ...args: readonly string[]): ChildProcess {
    const child = spawn(command, args, { stdio: ["pipe", "pipe", "ignore"] });
    child.on("error", () => undefined);
    if (child.pid !== undefined) this.#processorTime.include(child.pid);
    const kill = (): void => void child.kill("SIGKILL");
    remains.add(kill);
    this.#cleanUps.push(async () => {
      remains.delete(kill);
      const gone =
        child.exitCode === null && child.pid !== undefined ? once(child, "exit") : undefined;
      child.kill("SIGTERM");
      await gone;
    });
    return child;
  }
}

function ip(...args: readonly string[]): void {
  execFileSync("ip", args, { stdio: ["ignore", "ignore", "pipe"] });
}
