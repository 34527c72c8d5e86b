import { copyFileSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import {
  scsiControllerId,
  type ControllerConfig,
  type IntegrationStats,
} from "@hyperv-is/hyperv-host";
import { bootPc, type PcMachine, type PcOptions } from "../src/node/index.js";
import { integrationUntil } from "./integration-until.js";

/** What a user brings to test a real FreeBSD; see docs/freebsd-guest.md. */
export interface FreeBsdImages {
  /** CD-ROM that boots a kernel whose root is da0, with its console on the serial port. */
  readonly iso: string;
  /** VHD or VHDX with that root, and `freebsd/init.c` as its `/sbin/init`. */
  readonly root: string;
}

const ISO = "HYPERV_IS_FREEBSD_ISO";
const ROOT = "HYPERV_IS_FREEBSD_ROOT";

/** What makes the tests of a real FreeBSD run. */
export const freeBsdRemedy = `${ISO} and ${ROOT} name the images of a FreeBSD/i386: docs/freebsd-guest.md`;

/** The images that environment variables name; undefined where there are none. Throws if one of them is missing. */
export function freeBsdImages(): FreeBsdImages | undefined {
  const { [ISO]: iso = "", [ROOT]: root = "" } = process.env;
  if (iso === "" && root === "") return undefined;
  if (iso === "" || root === "") throw new Error(`one image is missing: ${freeBsdRemedy}`);
  return { iso, root };
}

/** Instance ids of the guest's controllers. */
export const FIRST = scsiControllerId(0);
export const SECOND = scsiControllerId(1);

/** What `freebsd/init.c` writes when it takes a command. */
export const PROMPT = "hvis> ";

/** How a command of the guest ended. */
export interface CommandResult {
  /** Its lines, with what the kernel said meanwhile. */
  readonly lines: readonly string[];
  /** 0, or the error number. */
  readonly errno: number;
}

/** A FreeBSD with its root in a copy of the user's image, which goes with it. */
export class FreeBsdGuest implements AsyncDisposable {
  /** The root's image. */
  readonly rootImage: string;
  readonly #iso: string;
  readonly #directory: string;
  #pc: PcMachine | undefined;

  constructor({ iso, root }: FreeBsdImages) {
    this.#iso = iso;
    this.#directory = mkdtempSync(join(tmpdir(), "hyperv-is-freebsd-"));
    this.rootImage = join(this.#directory, root.endsWith(".vhd") ? "root.vhd" : "root.vhdx");
    copyFileSync(root, this.rootImage);
  }

  get pc(): PcMachine {
    if (this.#pc === undefined) throw new Error("the guest has not been booted");
    return this.#pc;
  }

  /** Boots to the prompt. @param more - controllers beside that of the root. @returns What the console said. */
  async boot(
    more: readonly ControllerConfig[] = [],
    options: Partial<PcOptions> = {},
  ): Promise<string> {
    const disk = { path: 0, target: 0, lun: 0 };
    const root = { kind: "image", path: this.rootImage } as const;
    const controllers = [{ instanceId: FIRST, disks: [{ ...disk, source: root }] }, ...more];
    this.#pc = await bootPc({ ...options, cdrom: this.#iso, controllers });
    return this.pc.serial.waitFor(PROMPT);
  }

  /** Runs a command of `freebsd/init.c`. */
  async run(command: string): Promise<CommandResult> {
    const [name = ""] = command.split(" ");
    this.pc.serial.write(`${command}\n`);
    const text = await this.pc.serial.waitFor(PROMPT);
    const failed = new RegExp(`^failed ${name} errno (\\d+)`, "m").exec(text);
    const lines = text.split(/\r*\n/);
    if (failed === null && !lines.includes(`ok ${name}`)) throw new Error(`no result in: ${text}`);
    return { lines, errno: Number(failed?.[1] ?? 0) };
  }

  /** A field of a command's answer, such as the `1024` of `media 1024`. */
  async ask(command: string, field: string): Promise<string> {
    const { lines, errno } = await this.run(command);
    const found = lines.find((line) => line.startsWith(`${field} `));
    if (errno !== 0 || found === undefined) throw new Error(`no ${field} in: ${lines.join("\n")}`);
    return found.slice(field.length + 1);
  }

  /** Runs a command that has to succeed. */
  async must(command: string): Promise<readonly string[]> {
    const { lines, errno } = await this.run(command);
    if (errno !== 0) throw new Error(`${command}: ${lines.join("\n")}`);
    return lines;
  }

  /** Goes on until what its host knows of its integration components is so. */
  untilIntegration(isSo: (stats: IntegrationStats) => boolean): Promise<IntegrationStats> {
    return integrationUntil(this.pc, () => this.must("sleep 50"), isSo);
  }

  /** Has the guest switch its machine off. */
  async powerOff(): Promise<void> {
    this.pc.serial.write("poweroff\n");
    const end = await this.pc.ended;
    if (end !== "powered-off") throw new Error(`the machine has ended: ${end}`);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#pc?.stop();
    rmSync(this.#directory, { recursive: true });
  }
}
