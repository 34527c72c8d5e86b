import {
  DataDirection,
  Opcode,
  SRB_STATUS_CODE_MASK,
  SrbStatus,
  emitTransferCdb,
  emitUnmapList,
  unmapListBytes,
} from "@hyperv-is/hv-storvsc/protocol";
import fc from "fast-check";
import { expect, test } from "vitest";
import { RamDisk } from "../src/storvsp/ram-disk.js";
import { ScsiDisk } from "../src/storvsp/scsi-disk.js";
import { GuestBuffer, type Run, identity, send } from "./scsi-rig.js";

const sectors = 256;
const memoryBytes = 1 << 15;

/** A command, and how much data should go with it. */
interface Command {
  readonly cdb: Uint8Array;
  readonly lengthBytes: number;
  /** What lies in the buffer; repeated to its end. */
  readonly data: Uint8Array;
}

const u8 = fc.nat(0xff);
const someData = fc.uint8Array({ maxLength: 64 });

/** Lengths that something may happen at, and others. */
const anyLength = fc.oneof(
  fc.nat(300),
  fc.constantFrom(4, 5, 7, 8, 12, 16, 18, 20, 24, 32, 36, 104, 255, 512, 4096),
);

const rawCommand: fc.Arbitrary<Command> = fc.record({
  cdb: fc.uint8Array({ minLength: 16, maxLength: 16 }),
  lengthBytes: anyLength,
  data: someData,
});

/** Where commands that answer with data have their allocation length: first byte and bytes. */
const allocationFields: readonly (readonly [opcode: number, at: number, bytes: number])[] = [
  [Opcode.inquiry, 3, 2],
  [Opcode.requestSense, 4, 1],
  [Opcode.modeSense6, 4, 1],
  [Opcode.modeSense10, 7, 2],
  [Opcode.modeSelect6, 4, 1],
  [Opcode.modeSelect10, 7, 2],
  [Opcode.readCapacity10, 15, 1],
  [Opcode.serviceActionIn16, 10, 4],
  [Opcode.persistentReserveIn, 7, 2],
  [Opcode.persistentReserveOut, 7, 2],
];

const allocatedCommand: fc.Arbitrary<Command> = fc
  .record({
    field: fc.constantFrom(...allocationFields),
    flags: fc.oneof(fc.constantFrom(0, 1, 0x10, 0x12), u8),
    page: fc.oneof(fc.constantFrom(0, 8, 0x3f, 0x80, 0x83, 0xb0, 0xb1, 0xb2, 0xce, 0xcf), u8),
    rest: fc.oneof(fc.constant([0, 0, 0]), fc.tuple(u8, u8, u8)),
    allocation: anyLength,
    lengthBytes: anyLength,
    same: fc.boolean(),
    data: fc.oneof(
      someData,
      fc.constantFrom("00000000080c04", "0000000000000000080c04").map((text) => {
        const list = new Uint8Array(28);
        list.set(Buffer.from(text, "hex"));
        return list;
      }),
    ),
  })
  .map(({ field: [opcode, at, bytes], flags, page, rest, allocation, lengthBytes, same, data }) => {
    const cdb = new Uint8Array(16);
    cdb.set([opcode, flags, page, ...rest]);
    for (let index = 0; index < bytes; index++)
      cdb[at + index] = allocation >>> (8 * (bytes - 1 - index));
    return { cdb, lengthBytes: same ? allocation : lengthBytes, data };
  });

/** Block addresses around the start and the end of the disk, and far away. */
const anyLba = fc.oneof(
  { weight: 5, arbitrary: fc.nat(sectors + 4) },
  { weight: 3, arbitrary: fc.integer({ min: sectors - 4, max: sectors + 2 }) },
  { weight: 1, arbitrary: fc.maxSafeNat() },
);
const anyU32 = fc.integer({ min: 0, max: 0xffff_ffff });

/** Commands with the fields of READ and WRITE, by the group of their operation codes. */
const relatives: ReadonlyMap<number, readonly number[]> = new Map([
  [1, [Opcode.verify10, Opcode.writeAndVerify10, Opcode.writeSame10]],
  [5, [Opcode.verify12, Opcode.writeAndVerify12]],
  [4, [Opcode.verify16, Opcode.writeAndVerify16, Opcode.writeSame16, Opcode.serviceActionIn16]],
]);

const transferCommand: fc.Arbitrary<Command> = fc
  .record({
    write: fc.boolean(),
    lba: anyLba,
    blocks: fc.oneof({ weight: 5, arbitrary: fc.nat(6) }, { weight: 1, arbitrary: anyU32 }),
    minimumLength: fc.constantFrom(6, 10, 12, 16),
    flags: fc.oneof({ weight: 4, arbitrary: fc.constantFrom(0, 8) }, { weight: 1, arbitrary: u8 }),
    sectorBytes: fc.constantFrom(512, 4096),
    slack: fc.oneof(fc.constant(0), fc.integer({ min: -3, max: 600 })),
    relative: fc.nat(7),
    data: someData,
  })
  .map(({ write, lba, blocks, minimumLength, flags, sectorBytes, slack, relative, data }) => {
    const cdb = new Uint8Array(16);
    if (emitTransferCdb(cdb, 0, write, lba, blocks, minimumLength) > 6) cdb[1] = flags;
    cdb[0] = relatives.get(cdb[0]! >>> 5)?.[relative] ?? cdb[0]!;
    const lengthBytes = Math.max(0, Math.min(blocks * sectorBytes + slack, memoryBytes / 2));
    return { cdb, lengthBytes, data };
  });

const unmapCommand: fc.Arbitrary<Command> = fc
  .record({
    ranges: fc.array(
      fc.record({
        lba: anyLba,
        blocks: fc.oneof(fc.nat(300), anyU32),
      }),
      { maxLength: 4 },
    ),
    damage: fc.option(fc.tuple(fc.nat(7), u8)),
    slack: fc.oneof(fc.constant(0), fc.integer({ min: -9, max: 9 })),
  })
  .map(({ ranges, damage, slack }) => {
    const data = new Uint8Array(unmapListBytes(ranges.length));
    emitUnmapList(data, ranges);
    if (damage !== null) data[damage[0]] = damage[1];
    const cdb = new Uint8Array(16);
    cdb[0] = Opcode.unmap;
    cdb[8] = data.byteLength;
    return { cdb, lengthBytes: Math.max(0, data.byteLength + slack), data };
  });

const anyCommand = fc.oneof(
  { weight: 1, arbitrary: rawCommand },
  { weight: 2, arbitrary: allocatedCommand },
  { weight: 4, arbitrary: transferCommand },
  { weight: 1, arbitrary: unmapCommand },
);

/** Cuts a length into runs with gaps between them, one of them perhaps empty. */
function runsOf(lengthBytes: number, cuts: readonly number[]): readonly Run[] {
  const runs: Run[] = [];
  let address = 5;
  let left = lengthBytes;
  for (const cut of cuts) {
    const length = Math.min(cut, left);
    runs.push([address, length]);
    address += length + 1 + (cut % 7);
    left -= length;
  }
  return [...runs, [address, left]];
}

/** Operation codes that end well at least once in the run below; without that it would prove little. */
const reached = [
  ...[Opcode.read6, Opcode.read10, Opcode.read12, Opcode.read16],
  ...[Opcode.write6, Opcode.write10, Opcode.write12, Opcode.write16],
  ...[Opcode.writeSame10, Opcode.writeSame16, Opcode.verify10, Opcode.verify16],
  ...[Opcode.inquiry, Opcode.requestSense, Opcode.modeSense6, Opcode.modeSense10],
  ...[Opcode.modeSelect6, Opcode.readCapacity10, Opcode.serviceActionIn16, Opcode.unmap],
] as const;

test("any guest gets a status for anything, and no byte outside of the runs changes", () => {
  const succeeded = new Set<number>();
  const refused = new Set<number>();
  const direction = fc.oneof(
    fc.constantFrom(DataDirection.toDevice, DataDirection.fromDevice, DataDirection.none),
    u8,
  );
  const step = fc.record({
    command: anyCommand,
    direction,
    cuts: fc.array(fc.oneof(fc.nat(700), fc.constantFrom(0, 1, 512, 4096)), { maxLength: 5 }),
    resize: fc.oneof(
      { weight: 19, arbitrary: fc.constant(undefined) },
      { weight: 1, arbitrary: fc.constantFrom(sectors - 8, sectors - 1, sectors, sectors + 8) },
    ),
  });
  const features = fc.record({
    readOnly: fc.constantFrom(false, false, false, true),
    unmap: fc.boolean(),
    lbaStatus: fc.boolean(),
    tellsHoles: fc.boolean(),
    logicalSectorBytes: fc.constantFrom(512, 4096),
  });
  fc.assert(
    fc.property(
      fc.array(step, { minLength: 8, maxLength: 12 }),
      features,
      (steps, { readOnly, logicalSectorBytes, ...characteristics }) => {
        const sizeBytes = sectors * logicalSectorBytes;
        const backend = new RamDisk({ sizeBytes, identity, logicalSectorBytes, readOnly });
        const disk = new ScsiDisk(backend, characteristics);
        for (const { command, direction, cuts, resize } of steps) {
          if (resize !== undefined) backend.resize(resize * logicalSectorBytes);
          const buffer = new GuestBuffer(runsOf(command.lengthBytes, cuts), memoryBytes);
          buffer.fill(command.data);
          // The rig looks at the guards and at the sense data.
          const { status } = send(disk, command.cdb, direction, buffer);
          const srb = parseInt(status.slice(0, 2), 16);
          const scsi = parseInt(status.slice(3, 5), 16);
          const success = srb === SrbStatus.success;
          (success ? succeeded : refused).add(command.cdb[0]!);
          if (
            scsi !== (success ? 0 : 2) ||
            ![
              SrbStatus.success,
              SrbStatus.error,
              SrbStatus.invalidRequest,
              SrbStatus.dataOverrun,
            ].includes((srb & SRB_STATUS_CODE_MASK) as 1)
          )
            throw new Error(`a status of ${status}`);
        }
        // The backend throws at any call that is not whole sectors inside the disk and the array.
        expect(disk.counters.errors).toBe(0);
      },
    ),
    { numRuns: 1000 },
  );
  expect(reached.filter((opcode) => !succeeded.has(opcode))).toEqual([]);
  expect(reached.filter((opcode) => !refused.has(opcode))).toEqual([]);
});
