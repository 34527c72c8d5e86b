import { execFileSync } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { transfer, type Namespace } from "../../../packages/hyperv-host/test/namespaces.js";
import { DEVICE, TapMachine, addresses } from "./tap-machine.js";

/** What a campaign tries, in all combinations. */
export interface TcpCampaign {
  /** Sent each way, over IPv4 and over IPv6, in each combination. */
  readonly megabytes: number;
  readonly channels: readonly number[];
  readonly coalescing: readonly boolean[];
  readonly mtus: readonly number[];
  /** Names of `offloads`. */
  readonly offloads: readonly string[];
  readonly report?: (line: string) => void;
}

/** What the kernel leaves to its interface: without checksums it segments itself, too. */
export const offloads = [
  { name: "TSO and checksums", tx: true, tso: true },
  { name: "checksums", tx: true, tso: false },
  { name: "nothing", tx: false, tso: false },
] as const;

/** Frames that tshark looks at. */
const CAPTURED_MAX = 1000;

/**
 * TCP between a guest whose stack is Linux's and the network of its host, with hashes at both ends. Throws at the first
 * difference. Where the kernel computes checksums itself tshark must find all of them right behind the other TAP.
 */
export async function runTcpCampaign(campaign: TcpCampaign): Promise<void> {
  const { megabytes, channels, coalescing, mtus, report = () => undefined } = campaign;
  for (const cpus of channels)
    for (const receiveCoalescing of coalescing) {
      await using guest = await TapMachine.boot({ cpus, receiveCoalescing });
      for (const mtu of mtus) {
        if (mtu !== 1500) await guest.setMtu(mtu);
        for (const { name, tx, tso } of offloads) {
          if (!campaign.offloads.includes(name)) continue;
          guest.setOffload("tx", tx);
          guest.setOffload("tso", tso);
          const title = `${cpus} channels, RSC ${receiveCoalescing ? "on" : "off"}, MTU ${mtu}, offloads: ${name}`;
          await exchange(guest, megabytes, title, !tx);
          report(title);
        }
      }
      const { violations } = guest.machine.host;
      if (violations.length > 0) throw new Error(JSON.stringify(violations));
    }
}

async function exchange(
  { near, far }: TapMachine,
  megabytes: number,
  title: string,
  hasChecksums: boolean,
): Promise<void> {
  for (const version of ["ipv4", "ipv6"] as const)
    for (const [from, to, address] of [
      [near, far, addresses.far[version]],
      [far, near, addresses.near[version]],
    ] as const) {
      const send = async (): Promise<void> => {
        const [sent, received] = await transfer(from, to, address, megabytes);
        if (sent.length !== 64 || sent !== received)
          throw new Error(`${title}, to ${address}: ${sent} was sent, ${received} came`);
      };
      if (hasChecksums) await withCapture(to, send);
      else await send();
    }
}

/** Captures what comes to a namespace meanwhile; throws if a checksum in it is wrong. */
async function withCapture(to: Namespace, work: () => Promise<void>): Promise<void> {
  const directory = mkdtempSync(join(tmpdir(), "tcp-campaign-"));
  try {
    const path = join(directory, "in.pcap");
    const limits = ["-c", String(CAPTURED_MAX), "-U", "-Z", "root"];
    const tcpdump = to.start("tcpdump", "-i", DEVICE, "-Q", "in", "-w", path, ...limits, "tcp");
    const gone = once(tcpdump, "exit");
    tcpdump.stderr!.resume();
    await once(tcpdump.stderr!, "data");
    await work();
    if (tcpdump.exitCode === null) tcpdump.kill("SIGINT");
    await gone;
    const checks = ["tcp.check_checksum:TRUE", "ip.check_checksum:TRUE"].flatMap((check) => [
      "-o",
      check,
    ]);
    const tshark = (filter: string): string =>
      execFileSync("tshark", ["-r", path, ...checks, "-Y", filter], {
        encoding: "utf8",
        stdio: ["ignore", "pipe", "ignore"],
      });
    const wrong = tshark("tcp.checksum.status == 0 || ip.checksum.status == 0");
    if (wrong !== "") throw new Error(`wrong checksums:\n${wrong}`);
    if (tshark("tcp.checksum.status == 1 && tcp.len > 0") === "")
      throw new Error("nothing was captured");
  } finally {
    rmSync(directory, { recursive: true });
  }
}
