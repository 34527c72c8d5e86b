import { once } from "node:events";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { ControlError, type ControlErrorCode } from "@hyperv-is/hyperv-host/control";
import { ControlClient } from "@hyperv-is/hyperv-host/node/control";
import { Interruption } from "@hyperv-is/platform-node";
import { createImageFile } from "@hyperv-is/vhd/node";
import { DemoError, GuestProcess } from "./guest-process.js";

/** How the guest ends on the first host. */
export type FailoverKind = "kill" | "stop";

/** What the demo has seen. */
export interface FailoverReport {
  readonly kind: FailoverKind;
  /** Where the service was before, and where it was found afterwards. */
  readonly addresses: { readonly before: string; readonly after: string };
  /** From the start of the second host's process to the first echo that its guest answered. */
  readonly firstAnswerMs: number;
  /** Of what the guest had written on the first host, as the second host's guest reads it. */
  readonly diskSha256: string;
  /** Addresses of the guest after it was restarted, and nobody had set any. */
  readonly addressesAfterRestart: readonly string[];
}

/** The network of a host, with the service's address in it. */
interface Site {
  readonly name: string;
  readonly service: string;
  readonly router: string;
  readonly client: string;
}

// Networks of RFC 5737, for documentation.
const sites: readonly [Site, Site] = [
  { name: "A", service: "192.0.2.10", router: "192.0.2.1", client: "192.0.2.2" },
  { name: "B", service: "198.51.100.10", router: "198.51.100.1", client: "198.51.100.2" },
];
const PREFIX_BITS = 24;
const SERVICE_MAC = "00:15:5d:0a:00:01";
const DISK_BYTES = 16 * 2 ** 20;
const DATA = "bs=64k count=16 status=none";
/** Longest that the whole demo takes before it is given up. */
const DEADLINE_MS = 60_000;
/** Longest that a machine takes for an answer: it asks its guest meanwhile. */
const ANSWER_TIMEOUT_MS = 15_000;
/** Between two attempts at what is not ready yet. */
const RETRY_MS = 20;
const PING_INTERVAL_S = 0.02;
const ANSWER = /^\d+ bytes from (\S+): icmp_seq=\d+/;

/** What a machine says that is still booting, or not yet. */
const notReady: ReadonlySet<ControlErrorCode> = new Set([
  "ERR_CONTROL_GONE",
  "ERR_GUEST_NOT_READY",
]);

/**
 * Runs `guest-kernel demo failover`: two hosts, each a process, share an image; the guest ends on the first, starts on the
 * second in another subnet, and is given its new address by key-value pairs.
 *
 * @returns Exit status.
 */
export async function failoverCommand(kind: FailoverKind, json: boolean): Promise<number> {
  const interruption = new Interruption("guest-kernel");
  const directory = mkdtempSync(join(tmpdir(), "hyperv-failover-"));
  const stopping = new AbortController();
  const failover = new Failover(directory, kind, stopping.signal, (line) => {
    if (!json) process.stdout.write(`${line}\n`);
  });
  const stop = (): void => stopping.abort();
  interruption.signal.addEventListener("abort", stop);
  const timer = setTimeout(stop, DEADLINE_MS);
  const stopped = once(stopping.signal, "abort").then(() => {
    throw new DemoError(`the failover was given up after ${DEADLINE_MS / 1000} s`);
  });
  try {
    const report = await Promise.race([failover.run(), stopped]);
    if (json) process.stdout.write(`${JSON.stringify(report, null, 2)}\n`);
    return interruption.status ?? 0;
  } catch (error) {
    if (interruption.status !== undefined) return interruption.status;
    throw error;
  } finally {
    clearTimeout(timer);
    stop();
    await failover.end();
    rmSync(directory, { recursive: true, force: true });
    interruption.stop();
  }
}

class Failover {
  readonly #directory: string;
  readonly #kind: FailoverKind;
  /** Fires when the demo is to end. */
  readonly #signal: AbortSignal;
  readonly #say: (line: string) => void;
  readonly #processes: GuestProcess[] = [];

  constructor(
    directory: string,
    kind: FailoverKind,
    signal: AbortSignal,
    say: (line: string) => void,
  ) {
    this.#directory = directory;
    this.#kind = kind;
    this.#signal = signal;
    this.#say = say;
  }

  async run(): Promise<FailoverReport> {
    const [a, b] = sites;
    const image = this.#path("disk.vhdx");
    (await createImageFile(image, { format: "vhdx-dynamic", sizeBytes: DISK_BYTES })).close();
    this.#say(`Both hosts share ${image} and the directory root beside it.`);

    const hostA = this.#startHost(a, `dd if=/dev/random of=/dev/da0 ${DATA}; ${HASH}; tcpdump -n`);
    const [diskSha256] = await hostA.line(/^[\da-f]{64}$/);
    this.#say(`A: the guest has written to its disk; SHA-256 of it: ${diskSha256}`);
    await this.#setAddress(a, hostA);
    const clientB = this.#startClient(b, `ping -i ${PING_INTERVAL_S} ${b.service}`, true);
    const clientA = this.#startClient(a, `ping -i ${PING_INTERVAL_S} -c 3 ${a.service}`, false);
    await clientA.line(ANSWER);
    await clientA.ended;
    this.#say(`A: its client reaches the service at ${a.service}`);

    await clientB.line(/^PING /);
    await this.#endHost(a, hostA);

    const startMs = performance.now();
    const hostB = this.#startHost(b, `${HASH}; tcpdump -n`);
    this.#say("B: the host starts, and its guest with the address that it had on A");
    await this.#setAddress(b, hostB);
    const answers = await clientB.line(ANSWER);
    const firstAnswerMs = Math.round(performance.now() - startMs);
    this.#say(`B: the client reaches the service at ${answers[1]!}`);
    const [found] = await hostB.line(/^[\da-f]{64}$/);
    if (found !== diskSha256) throw new DemoError(`B: the disk is another one: ${found}`);
    this.#say("B: the guest reads what it had written on A");

    await this.#restart(b, hostB);
    const settings = await this.#ask(b, hostB, (client) =>
      client.call("get-vm-ip", { adapter: SERVICE_MAC }),
    );
    clientB.skip();
    await clientB.line(ANSWER);
    this.#say(
      `B: after a restart the guest still has ${settings.addresses.join(", ")}, and the client reaches it`,
    );
    await this.#ask(b, hostB, (client) => client.call("stop-vm", {}));
    const status = await hostB.ended;
    if (status !== 0) throw new DemoError(`B: the host has ended with status ${status}`);
    this.#say(`${firstAnswerMs} ms from the start of B to the first answer.`);
    return {
      kind: this.#kind,
      addresses: { before: a.service, after: answers[1]! },
      firstAnswerMs,
      diskSha256,
      addressesAfterRestart: settings.addresses,
    };
  }

  /** Ends whatever still runs. */
  async end(): Promise<void> {
    await Promise.all(this.#processes.map((one) => one.kill("SIGKILL")));
  }

  #path(name: string): string {
    return join(this.#directory, name);
  }

  #control(site: Site): string {
    return this.#path(`${site.name}.sock`);
  }

  #boot(name: string, args: readonly string[]): GuestProcess {
    this.#signal.throwIfAborted();
    const started = new GuestProcess(name, ["--violations", "fail", ...args]);
    this.#processes.push(started);
    return started;
  }

  #startHost(site: Site, line: string): GuestProcess {
    return this.#boot(`host ${site.name}`, [
      ...["--disk", this.#path("disk.vhdx"), "--root", this.#path("root")],
      ...["--control", this.#control(site), "--nic", `switch=lan,mac=${SERVICE_MAC}`],
      ...["--switch", this.#switch(site, site === sites[0]), "--exec", line],
    ]);
  }

  #startClient(site: Site, line: string, listens: boolean): GuestProcess {
    return this.#boot(`client ${site.name}`, [
      ...["--memory", "64M", "--nic", "switch=lan", "--switch", this.#switch(site, listens)],
      ...["--exec", `ifconfig hn0 inet ${site.client}/${PREFIX_BITS}; ${line}`],
    ]);
  }

  /** The network of a site leads from its host to its client by a socket; one of them has to be there first. */
  #switch(site: Site, listens: boolean): string {
    return `lan,uplink=socket:${this.#path(`lan-${site.name}.sock`)}${listens ? ",listen" : ""}`;
  }

  async #setAddress(site: Site, host: GuestProcess): Promise<void> {
    const { name, service, router } = site;
    const addresses = [`${service}/${PREFIX_BITS}`];
    const settings = { adapter: SERVICE_MAC, addresses, gateways: [router] };
    await this.#ask(site, host, (client) => client.call("set-vm-ip", settings));
    this.#say(
      `${name}: hyperv-host vm ip set ${name} ${SERVICE_MAC} --address ${addresses.join()} --gateway ${router}`,
    );
  }

  async #endHost(site: Site, host: GuestProcess): Promise<void> {
    if (this.#kind === "kill") {
      await host.kill("SIGKILL");
      this.#say(`${site.name}: kill -9`);
      return;
    }
    await this.#ask(site, host, (client) => client.call("stop-vm", {}));
    await host.ended;
    this.#say(`${site.name}: hyperv-host vm shutdown ${site.name}`);
  }

  /** Has the guest restart, and resolves when it has shut down. */
  async #restart(site: Site, host: GuestProcess): Promise<void> {
    await this.#ask(site, host, async (client) => {
      await client.call("restart-vm", {});
      await client.closed;
    });
    this.#say(`${site.name}: hyperv-host vm restart ${site.name}`);
  }

  /** Asks a machine for something by its control socket, as soon as it can be asked. */
  async #ask<T>(
    site: Site,
    host: GuestProcess,
    ask: (client: ControlClient) => Promise<T>,
  ): Promise<T> {
    for (;;) {
      host.check();
      try {
        return await withClient(this.#control(site), ask);
      } catch (error) {
        if (!(error instanceof ControlError && notReady.has(error.code))) throw error;
      }
      await delay(RETRY_MS, undefined, { signal: this.#signal });
    }
  }
}

// On its own, since esbuild's `using` in a loop throws the error of an earlier turn again.
async function withClient<T>(path: string, ask: (client: ControlClient) => Promise<T>): Promise<T> {
  using client = await ControlClient.connect(path, ANSWER_TIMEOUT_MS);
  return await ask(client);
}

const HASH = `dd if=/dev/da0 ${DATA} | sha256`;
