import { spawnSync } from "node:child_process";
import { test } from "vitest";
import type { IntegrationStats, Violation } from "@hyperv-is/hyperv-host";
import {
  bootPc,
  preferQuickCompilation,
  type PcMachine,
  type PcOptions,
  type SnapshotOptions,
} from "../src/node/index.js";
import { integrationUntil } from "./integration-until.js";
import { composeCommand, stockGuest } from "../../../tools/stock-guest/location.mjs";

/** The composed guest, where there is one. */
export const guest = stockGuest();

/** What a test needs besides the guest: Debian's package by the program that it brings. */
const peerPackages = {
  "qemu-img": "qemu-utils",
  "mkfs.ext4": "e2fsprogs",
  e2fsck: "e2fsprogs",
  debugfs: "e2fsprogs",
  ethtool: "ethtool",
} as const;

/**
 * A test of the stock guest. Where that or a peer is missing it is skipped, and says what to do; in CI it fails.
 *
 * @param peers - programs that it runs.
 */
export function withGuest(
  name: string,
  { timeout, peers = [] }: { timeout: number; peers?: readonly (keyof typeof peerPackages)[] },
  run: () => Promise<void> | void,
): void {
  const missing = peers.filter((peer) => spawnSync(peer, ["-V"]).error !== undefined);
  const remedies = [
    ...(guest === undefined ? [composeCommand] : []),
    ...missing.map((peer) => `apt-get install ${peerPackages[peer]}`),
  ];
  if (remedies.length === 0) test(name, { timeout }, run);
  else skip(name, remedies);
}

/** Skips a test, and says what to do; in CI it fails. */
function skip(name: string, remedies: readonly string[]): void {
  const needs = `needs: ${remedies.join("; ")}`;
  if (process.env["CI"]) throw new Error(`'${name}' ${needs}`);
  console.log(`skipped: ${name} (${needs})`);
  test.skip(`${name} (${needs})`);
}

/** How a command of the guest ended. */
export interface CommandResult {
  readonly output: string;
  readonly status: number;
}

/** A device as the guest's bus lists it. */
export interface LinuxDevice {
  readonly instanceId: string;
  readonly classId: string;
  /** The driver that has taken it. */
  readonly driver: string | undefined;
}

/** Ends the output of a command, before its exit status; see tools/stock-guest/init.sh. */
const OUTPUT_END = "\x1e";
const commandEnd = new RegExp(`${OUTPUT_END}\\d+\\n`);

/**
 * What this guest does against the rules of the host, each with the place in Linux 6.1 that does it.
 * Anything else is a mistake of the host, or one of Linux that nobody has looked at yet.
 */
const explained = [
  // arch/x86/hyperv/hv_init.c, hyperv_cleanup: on its way to another kernel it switches the reference TSC
  // page off, whether or not the hypervisor offers that register (CPUID 0x40000003, EAX bit 9).
  { rule: "msr-access", detail: /\b0x40000021$/ },
];

/** What a kernel says that has met with an accident. */
const ACCIDENT =
  /BUG:|Oops|WARNING:|general protection|blocked for more than|soft lockup|Call Trace/;

/** Leaves out what costs a kernel seconds on an emulated processor, and has nothing to do with its drivers. */
const APPEND = "nokaslr cryptomgr.notests noisapnp stock.console=commands";

/** What the guest says when it takes commands. */
export const READY = `${OUTPUT_END}0\n`;

/** How the guest is started. */
export interface StockLinuxOptions extends Omit<PcOptions, "append" | "snapshot"> {
  /** Groups of modules that it loads, see tools/stock-guest; bus and storage unless given. */
  readonly modules?: readonly string[];
  /**
   * A file in which to keep the guest as it is before it loads a module and meets the host: tests with the same
   * file boot it once.
   */
  readonly bootedOnce?: string;
  /** Kept when its modules are loaded. */
  readonly snapshot?: SnapshotOptions;
}

/** A booted stock guest whose console takes commands. */
export class StockLinux implements AsyncDisposable {
  readonly pc: PcMachine;
  /** What it loads by command at each start. */
  readonly #modules: readonly string[];

  private constructor(pc: PcMachine, modules: readonly string[]) {
    this.pc = pc;
    this.#modules = modules;
  }

  /** Boots the guest, or goes on with it; resolves when it takes commands. */
  static async boot({
    modules = ["bus", "storage"],
    bootedOnce,
    ...options
  }: StockLinuxOptions = {}): Promise<StockLinux> {
    if (guest === undefined) throw new Error(`there is no stock guest: ${composeCommand}`);
    preferQuickCompilation();
    const [early, late] = bootedOnce === undefined ? [modules, []] : [["none"], modules];
    const pc = await bootPc({
      kernel: guest.kernel,
      initrd: guest.initrd,
      bios: guest.directory,
      append: `${APPEND} stock.modules=${early.join()}`,
      ...options,
      ...(bootedOnce !== undefined && { snapshot: { path: bootedOnce, at: READY } }),
    });
    const linux = new StockLinux(pc, late);
    await linux.#start();
    return linux;
  }

  /** Runs a command line of the guest's shell. */
  async run(command: string): Promise<CommandResult> {
    this.pc.serial.write(`${command}\n`);
    return this.#answer();
  }

  /** Runs a command that must succeed. @returns Its output without the last line end. */
  async output(command: string): Promise<string> {
    const { output, status } = await this.run(command);
    if (status !== 0) throw new Error(`'${command}' exits with ${status}: ${output}`);
    return output.replace(/\n$/, "");
  }

  /** The kernel's messages since the last call; none of them is of an accident. */
  async kernelLog(): Promise<string> {
    const log = await this.output("dmesg -c");
    const accident = ACCIDENT.exec(log);
    if (accident !== null) throw new Error(`the guest's kernel had an accident:\n${log}`);
    return log;
  }

  /** What it has on the bus, sorted by instance. */
  async devices(): Promise<LinuxDevice[]> {
    const listing = await this.output(
      "cd /sys/bus/vmbus/devices; for d in *; do " +
        'echo $(cat $d/device_id) $(cat $d/class_id) $(basename "$(readlink $d/driver)"); done',
    );
    return listing.split("\n").map((line) => {
      const [instanceId = "", classId = "", driver] = line.replaceAll(/[{}]/g, "").split(" ");
      return { instanceId, classId, driver };
    });
  }

  /** Restarts the guest by a command that does not return; resolves when it takes commands again. */
  async restart(command: string): Promise<void> {
    this.pc.serial.write(`${command}\n`);
    await this.restarted(command);
  }

  /** Resolves when the guest has restarted and takes commands again. @param command - that has it restart. */
  async restarted(command: string): Promise<void> {
    const { status, output } = await this.#start();
    if (!output.includes("Linux version"))
      throw new Error(`'${command}' exits with ${status}: ${output}`);
  }

  /** Goes on until what its host knows of its integration components is so. */
  untilIntegration(isSo: (stats: IntegrationStats) => boolean): Promise<IntegrationStats> {
    return integrationUntil(this.pc, () => this.output("usleep 50000"), isSo);
  }

  /** Restarts the guest's machine. */
  reboot(): Promise<void> {
    return this.restart("reboot -f");
  }

  /** What the guest did wrong that is not known to be its own way. */
  get unexplained(): readonly Violation[] {
    return this.pc.host.violations.filter(
      ({ rule, detail }) => !explained.some((one) => one.rule === rule && one.detail.test(detail)),
    );
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.pc.stop();
  }

  /** Waits until it takes commands, and loads what it has not loaded itself. */
  async #start(): Promise<CommandResult> {
    const started = await this.#answer();
    for (const group of this.#modules)
      await this.output(`modprobe -a $(cat /etc/module-groups/${group})`);
    return started;
  }

  async #answer(): Promise<CommandResult> {
    const text = await this.pc.serial.waitFor(commandEnd);
    const end = text.lastIndexOf(OUTPUT_END);
    return { output: text.slice(0, end), status: Number(text.slice(end + 1)) };
  }
}
