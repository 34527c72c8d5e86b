import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, expect } from "vitest";
import { driver } from "@hyperv-is/hv-storvsc/module";
import type { ScsiDisk, StorvscController } from "@hyperv-is/hv-storvsc";
import { DataDirection } from "@hyperv-is/hv-storvsc/protocol";
import { Partition, controllerOffers, type ControllerConfig } from "@hyperv-is/hyperv-host";
import { DiskSet } from "@hyperv-is/hyperv-host/node";
import { NodeClock, NodeTimers } from "@hyperv-is/platform-node";
import { createImageFile } from "@hyperv-is/vhd/node";
import { GuestCpu, GuestMemory, PageAllocator, Vmbus, localQueue } from "@hyperv-is/vmbus-core";
import { StockLinux, withGuest } from "../../hyperv-pc/test/stock-linux.js";

const directory = mkdtempSync(join(tmpdir(), "stock-linux-identity-"));
afterAll(() => rmSync(directory, { recursive: true, force: true }));

const MEGABYTE = 2 ** 20;
const ARENA_BYTES = 8 * MEGABYTE;

/** Our guest's bus and storage driver on our host, all in this thread, in real time. */
class OwnGuest implements AsyncDisposable {
  readonly #disks: DiskSet;
  #controller: StorvscController | undefined;
  #stopped = false;

  private constructor(disks: DiskSet) {
    this.#disks = disks;
  }

  static async boot(controller: ControllerConfig): Promise<OwnGuest> {
    const guest = new OwnGuest(await DiskSet.open([controller]));
    await guest.#attach(controller);
    return guest;
  }

  get disks(): readonly ScsiDisk[] {
    return this.#controller?.disks ?? [];
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#controller?.detach();
    this.#stopped = true;
    await this.#disks.close();
  }

  async #attach(controller: ControllerConfig): Promise<void> {
    const memory = new GuestMemory(new ArrayBuffer(ARENA_BYTES));
    const timers = new NodeTimers(new NodeClock());
    let interrupted = false;
    const partition = new Partition({ memory, timers, interrupt: () => void (interrupted = true) });
    this.#disks.serve(partition.workers[0]!);
    for (const offer of controllerOffers([controller], 0)) partition.offer(offer);
    const hypervisor = partition.processors[0]!;
    const cpu = new GuestCpu({
      memory,
      allocator: new PageAllocator(memory, 0, ARENA_BYTES),
      hypervisor,
      timers,
    });
    const step = (): void => {
      partition.run();
      if (interrupted) {
        interrupted = false;
        cpu.interrupt();
      }
      cpu.run();
      timers.runDue();
      if (!this.#stopped) setImmediate(step);
    };
    cpu.start();
    step();
    const bus = new Vmbus({ cpu, hypervisor });
    await bus.connect();
    const attached = new Promise<StorvscController>((resolve, reject) => {
      bus.onDevice((device) => {
        driver
          .control({
            device,
            timers,
            cpus: [0],
            tunable: () => undefined,
            log: () => undefined,
            startQueue: (number, description, told) =>
              Promise.resolve(
                localQueue(number, driver.queue(cpu, structuredClone(description), told)),
              ),
          })
          .then(resolve, reject);
      });
    });
    await bus.requestOffers();
    this.#controller = await attached;
  }
}

/** What a command brings, in hex; nothing when it fails. */
async function askOurs(disk: ScsiDisk, cdb: string, lengthBytes: number): Promise<string> {
  const data = new Uint8Array(lengthBytes);
  try {
    const { transferredBytes } = await disk.perform({
      name: cdb,
      command: Uint8Array.from(Buffer.from(cdb.replaceAll(" ", ""), "hex")),
      direction: DataDirection.fromDevice,
      data,
    });
    return Buffer.from(data.subarray(0, transferredBytes)).toString("hex");
  } catch {
    return "";
  }
}

/**
 * The same from the other guest. Whether the command failed cannot be compared: Linux makes a success
 * without data of every INQUIRY and MODE SENSE that fails (drivers/scsi/storvsc_drv.c, storvsc_on_io_completion).
 */
async function askLinux(
  linux: StockLinux,
  device: string,
  cdb: string,
  lengthBytes: number,
): Promise<string> {
  await linux.run(`: > /tmp/answer; sg_raw -r ${lengthBytes} -o /tmp/answer ${device} ${cdb}`);
  const dump = await linux.output("xxd -p /tmp/answer");
  return dump.replaceAll("\n", "");
}

const hex = (...bytes: number[]): string =>
  bytes.map((byte) => byte.toString(16).padStart(2, "0")).join(" ");

/** INQUIRY, its pages and one that there is not, MODE SENSE of the pages that guests ask for, capacities, LUNs. */
const questions: readonly [cdb: string, lengthBytes: number][] = [
  [hex(0x12, 0, 0, 0, 255, 0), 255],
  [hex(0x12, 0, 0, 0, 36, 0), 36],
  ...[0x00, 0x80, 0x83, 0x86, 0xb0, 0xb1, 0xb2, 0xc0, 0xce, 0xcf].map((page): [string, number] => [
    hex(0x12, 1, page, 0, 255, 0),
    255,
  ]),
  ...[0x01, 0x08, 0x0a, 0x1c, 0x3f].flatMap((page): [string, number][] => [
    [hex(0x1a, 0, page, 0, 192, 0), 192],
    [hex(0x1a, 8, page, 0, 4, 0), 4],
    [hex(0x5a, 0, page, 0, 0, 0, 0, 0, 192, 0), 192],
  ]),
  [hex(0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0), 8],
  [hex(0x9e, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 32, 0, 0), 32],
  [hex(0xa0, 0, 0, 0, 0, 0, 0, 0, 0, 64, 0, 0), 64],
];

withGuest(
  "a disk tells a stock Linux guest byte for byte what it tells ours",
  { timeout: 600_000 },
  async () => {
    const paths = await Promise.all(
      (["vhdx-dynamic", "vhdx-fixed", "vhd-fixed"] as const).map(async (format) => {
        const path = join(directory, `${format}.${format.slice(0, format.indexOf("-"))}`);
        (await createImageFile(path, { format, sizeBytes: 24 * MEGABYTE })).close();
        return path;
      }),
    );
    const controller: ControllerConfig = {
      instanceId: "5107a9e0-0000-4000-8000-000000000001",
      disks: paths.map((path, lun) => ({
        path: 0,
        target: 0,
        lun,
        source: { kind: "image", path, readOnly: lun === 2 },
      })),
    };
    const ours: string[][] = [];
    {
      await using guest = await OwnGuest.boot(controller);
      expect(guest.disks).toHaveLength(paths.length);
      for (const disk of guest.disks) {
        // A question that nobody answers would compare as equal.
        expect(await askOurs(disk, ...questions[0]!)).toHaveLength(2 * 104);
        const answers: string[] = [];
        for (const [cdb, lengthBytes] of questions)
          answers.push(await askOurs(disk, cdb, lengthBytes));
        ours.push(answers);
      }
    }
    await using linux = await StockLinux.boot({ controllers: [controller] });
    for (const lun of paths.keys()) {
      const device = await linux.output(
        `ls -d /sys/bus/vmbus/devices/${controller.instanceId}/host*/target*/*:${lun}/scsi_generic/* | sed s,.*/,/dev/,`,
      );
      const theirs: string[] = [];
      for (const [cdb, lengthBytes] of questions)
        theirs.push(await askLinux(linux, device, cdb, lengthBytes));
      const told = (answers: readonly string[]) =>
        answers.map((answer, index) => `${questions[index]![0]}: ${answer}`);
      expect(told(theirs)).toEqual(told(ours[lun]!));
    }
    expect(linux.unexplained).toEqual([]);
  },
);
