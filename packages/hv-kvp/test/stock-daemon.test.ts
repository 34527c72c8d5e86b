import { spawn, spawnSync, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import { existsSync, mkdirSync } from "node:fs";
import { networkInterfaces } from "node:os";
import { fileURLToPath } from "node:url";
import { IcStatus, type IcMessage } from "@hyperv-is/hv-utils/protocol";
import { beforeAll, describe, expect, test } from "vitest";
import { PoolFiles, serveDevice, type ServedDevice } from "../src/node/index.js";
import * as protocol from "../src/protocol/index.js";
import { Rig } from "./rig.js";
import { temporaryDirectory } from "./temporary-directory.js";

const { freebsdDialect, KvpOperation, linuxDialect } = protocol;
const DAEMON = "/usr/sbin/hv_kvp_daemon";
const missing = [
  ...(existsSync(DAEMON) ? [] : ["hyperv-daemons"]),
  ...(spawnSync("gcc", ["--version"]).status === 0 ? [] : ["gcc"]),
  ...(existsSync("/usr/include/stdio.h") ? [] : ["libc6-dev"]),
];
if (missing.length > 0) {
  const needs = `Debian's own daemon at the device node: apt-get install ${missing.join(" ")}`;
  if (process.env["CI"]) throw new Error(needs);
  console.log(`skipped: ${needs}`);
}

const path = temporaryDirectory();
const shim = (): string => path("device-socket.so");

/** Our driver, in the hands of a test, and the directory of a daemon of its own. */
class Guest {
  readonly rig = new Rig({ dialect: linuxDialect });
  readonly pools: PoolFiles;
  readonly root: string;

  constructor(name: string) {
    this.root = path(name);
    this.pools = new PoolFiles(`${this.root}${linuxDialect.poolDirectory}`);
    mkdirSync(`${this.root}/var/lib`, { recursive: true });
  }

  async serve(name: string): Promise<Served> {
    return new Served(this, await serveDevice(path(name), this.rig.service.device));
  }

  async until(isSo: () => boolean): Promise<void> {
    while (!isSo()) {
      await new Promise((resolve) => setImmediate(resolve));
      this.rig.run();
    }
  }

  /** What the guest answers to a request. */
  async ask(request: protocol.KvpRequest): Promise<IcMessage> {
    this.rig.request(protocol.emitKvpRequest(request, "text"));
    return this.answer();
  }

  async answer(): Promise<IcMessage> {
    await this.until(() => this.rig.received.length > 0);
    return this.rig.take()!;
  }

  /** Every key and value of a pool, as the host walks it. */
  async enumerate(pool: number): Promise<[key: string, value: string][]> {
    const items: [string, string][] = [];
    for (let index = 0; ; index++) {
      const { status, body } = await this.ask({ operation: KvpOperation.enumerate, pool, index });
      if (status === IcStatus.noMoreItems) return items;
      expect(status).toBe(IcStatus.ok);
      const { key, value } = protocol.parseItemAnswer(body)!;
      items.push([key, String(value)]);
    }
  }
}

/** The device node of a guest, and Debian's daemons there, which end with it. */
class Served implements AsyncDisposable {
  readonly node: ServedDevice;
  readonly #guest: Guest;
  readonly #daemons: ChildProcess[] = [];

  constructor(guest: Guest, node: ServedDevice) {
    this.#guest = guest;
    this.node = node;
  }

  spawn(): ChildProcess {
    const child = spawn(DAEMON, ["-n"], {
      env: {
        PATH: process.env["PATH"],
        LD_PRELOAD: shim(),
        HV_KVP_DEVICE: this.node.path,
        HV_KVP_ROOT: this.#guest.root,
      },
    });
    this.#daemons.push(child);
    return child;
  }

  /** Starts a daemon; resolves when it has registered. */
  async daemon(): Promise<ChildProcess> {
    const child = this.spawn();
    await this.#guest.until(() => this.#guest.rig.service.state === "idle");
    return child;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.node.close();
    for (const daemon of this.#daemons) {
      if (daemon.exitCode !== null || daemon.signalCode !== null) continue;
      daemon.kill("SIGKILL");
      await once(daemon, "exit");
    }
  }
}

function compile(...args: readonly string[]): void {
  const flags = ["-Wall", "-Wextra", "-Werror", ...args];
  const { status, stderr } = spawnSync("gcc", flags, { encoding: "utf8" });
  if (status !== 0) throw new Error(stderr);
}

const set = (key: string, value: string): protocol.KvpRequest => ({
  ...{ operation: KvpOperation.set, pool: 0, key, value },
});

describe.skipIf(missing.length > 0)("Debian's own daemon at the device node", () => {
  beforeAll(() => {
    const source = fileURLToPath(new URL("../native/device-socket.c", import.meta.url));
    compile("-shared", "-fPIC", "-o", shim(), source);
  });

  test("registers, and answers what the host asks", async () => {
    const guest = new Guest("answers");
    const { rig, pools } = guest;
    await using served = await guest.serve("answers.device");
    expect(rig.negotiate(4)).toBeUndefined();
    await served.daemon();
    await guest.until(() => rig.chosen() === 4);

    for (const [key, value] of [
      ["color", "blue"],
      ["größe", "42 €"],
      ["color", "green"],
    ] as const)
      expect((await guest.ask(set(key, value))).status).toBe(IcStatus.ok);
    const items = [
      ["color", "green"],
      ["größe", "42 €"],
    ];
    expect(await guest.enumerate(0)).toEqual(items);
    expect(pools.items(0).map(({ key, value }) => [key, value])).toEqual(items);
    const get = await guest.ask({ operation: KvpOperation.get, pool: 0, key: "größe" });
    expect(get.status).toBe(IcStatus.ok);
    expect(protocol.parseItemAnswer(get.body)).toEqual({ key: "größe", value: "42 €" });
    const remove = { operation: KvpOperation.delete, pool: 0, key: "color" } as const;
    expect((await guest.ask(remove)).status).toBe(IcStatus.ok);
    expect((await guest.ask(remove)).status).toBe(IcStatus.noMoreItems);
    expect(pools.items(0)).toEqual([{ key: "größe", value: "42 €" }]);

    pools.set(1, { key: "state", value: "ready" });
    expect(await guest.enumerate(1)).toEqual([["state", "ready"]]);
    const auto = Object.fromEntries(await guest.enumerate(2));
    expect(auto).toMatchObject({ IntegrationServicesVersion: "3.1", OSName: "Debian GNU/Linux" });

    const hostile = { ...set("color", "blue"), pool: 200 };
    expect((await guest.ask(hostile)).status).toBe(IcStatus.invalidArgument);
    expect(await guest.enumerate(0)).toEqual([["größe", "42 €"]]);

    // The interfaces that it knows are this machine's.
    const [name, own] = Object.entries(networkInterfaces()).find(([, list]) =>
      list?.some(({ family, mac }) => family === "IPv4" && mac !== "00:00:00:00:00:00"),
    ) ?? ["lo", networkInterfaces()["lo"]];
    const adapterId = own![0]!.mac.toUpperCase();
    const told = await guest.ask({ operation: KvpOperation.getIpInfo, adapterId });
    expect(told.status, name).toBe(IcStatus.ok);
    const { settings } = protocol.parseIpAnswer(told.body, "text")!;
    const addresses = protocol.formatIpSettings(settings).addresses;
    expect([...addresses].sort()).toEqual(own!.map(({ cidr }) => cidr).sort());
    const inject = {
      operation: KvpOperation.setIpInfo,
      adapterId: "{f8615163-df3e-46c5-913f-f2d2f965ed0e}",
      settings,
    } as const;
    expect((await guest.ask(inject)).status).toBe(IcStatus.notFound);
  });

  test("is one at a time, and leaves with the driver", async () => {
    const guest = new Guest("one");
    await using served = await guest.serve("one.device");
    const first = await served.daemon();
    const second = served.spawn();
    expect(await once(second, "exit")).toEqual([1, null]);
    expect(guest.rig.negotiate(4)).toBe(4);
    expect((await guest.ask(set("color", "green"))).status).toBe(IcStatus.ok);
    guest.rig.close();
    served.node.close();
    expect(await once(first, "exit")).toEqual([1, null]);
  });

  test("of FreeBSD, by its system calls, is served too", async () => {
    const rig = new Rig({ dialect: freebsdDialect });
    const served = await serveDevice(path("freebsd.device"), rig.service.device);
    const program = path("freebsd-calls");
    compile("-o", program, fileURLToPath(new URL("freebsd-calls.c", import.meta.url)));
    const env = { LD_PRELOAD: shim(), HV_KVP_DEVICE: served.path };
    const ended = once(spawn(program, { env, stdio: "inherit" }), "exit");
    const run = async (isSo: () => boolean): Promise<void> => {
      while (!isSo()) {
        await new Promise((resolve) => setImmediate(resolve));
        rig.run();
      }
    };
    await run(() => rig.service.state === "idle");
    expect(rig.negotiate(4)).toBe(4);
    for (const key of ["color", "shape"]) {
      rig.request(protocol.emitKvpRequest({ ...set(key, "green") }, "text"));
      await run(() => rig.received.length > 0);
      expect(rig.take()?.status).toBe(IcStatus.ok);
    }
    expect(await ended).toEqual([0, null]);
    served.close();
  });

  test("may come late, be slow, be killed, and come again", async () => {
    const guest = new Guest("killed");
    const { rig, pools } = guest;
    await using served = await guest.serve("killed.device");
    expect(rig.negotiate(4)).toBeUndefined();
    const slow = await served.daemon();
    await guest.until(() => rig.chosen() === 4);
    slow.kill("SIGSTOP");
    rig.request(protocol.emitKvpRequest(set("color", "blue"), "text"));
    rig.timers.advance(linuxDialect.timeoutMs - 1);
    expect(rig.take()).toBeUndefined();
    rig.timers.advance(1);
    expect(rig.take()?.status).toBe(IcStatus.fail);
    slow.kill("SIGCONT");
    await guest.until(() => rig.service.counters.late === 1);
    expect((await guest.ask(set("shape", "round"))).status).toBe(IcStatus.ok);

    slow.kill("SIGSTOP");
    rig.request(protocol.emitKvpRequest(set("size", "small"), "text"));
    slow.kill("SIGKILL");
    expect((await guest.answer()).status).toBe(IcStatus.fail);
    await guest.until(() => rig.service.state === "absent");

    await served.daemon();
    expect((await guest.ask(set("size", "large"))).status).toBe(IcStatus.ok);
    expect(pools.items(0)).toEqual([
      { key: "color", value: "blue" },
      { key: "shape", value: "round" },
      { key: "size", value: "large" },
    ]);
  });
});
