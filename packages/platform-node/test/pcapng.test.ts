import { execFileSync, spawnSync } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { PcapngFlag, PcapngWriter, type PcapngOptions } from "../src/index.js";
import { leastGarbage } from "../../../tools/garbage.js";
import { readCapture } from "./pcapng-reader.js";

/** A capture that is kept in memory, as long as there is room. */
class Memory {
  readonly writer: PcapngWriter;
  readonly #chunks: Buffer[] = [];
  hasRoom = true;
  timeUs = 0;

  constructor(options: Partial<PcapngOptions> = {}) {
    this.writer = new PcapngWriter({
      interfaces: [{ name: "hn0" }],
      application: "test",
      nowUs: () => this.timeUs,
      ...options,
      write: (chunk) => {
        if (this.hasRoom) this.#chunks.push(Buffer.from(chunk));
        return this.hasRoom;
      },
    });
  }

  get file(): Buffer {
    return Buffer.concat(this.#chunks);
  }
}

describe("a capture", () => {
  test("is what the format says, byte for byte", () => {
    const capture = new Memory();
    const { writer } = capture;
    capture.timeUs = 5_000_000_002;
    writer.packet(0, Uint8Array.of(1, 2, 3, 4, 5), PcapngFlag.inbound);
    expect(writer.close()).toBe(true);
    expect(capture.file.toString("hex")).toBe(
      [
        // Section header: application "test".
        "0a0d0d0a 28000000 4d3c2b1a 0100 0000 ffffffffffffffff 0400 0400 74657374 00000000 28000000",
        // Interface: Ethernet, snap length 262144, name "hn0"; times in microseconds if nothing else is said.
        "01000000 20000000 0100 0000 00000400 0200 0300 686e3000 00000000 20000000",
        // Packet at 5000.000002 s: five bytes, inbound.
        "06000000 34000000 00000000 01000000 02f2052a 05000000 05000000 0102030405000000",
        "0200 0400 01000000 00000000 34000000",
        // Statistics: one received, none dropped.
        "05000000 34000000 00000000 01000000 02f2052a 0400 0800 0100000000000000",
        "0500 0800 0000000000000000 00000000 34000000",
      ]
        .join("")
        .replaceAll(" ", ""),
    );
  });

  test("keeps all packets with their times, and says what each interface is", () => {
    const packets = fc.array(
      fc.record({
        index: fc.nat(1),
        frame: fc.uint8Array({ maxLength: 300 }),
        timeUs: fc.nat(2 ** 52),
        flags: fc.constantFrom(
          0,
          PcapngFlag.outbound,
          PcapngFlag.inbound | PcapngFlag.checksumValid,
        ),
        isWritten: fc.boolean(),
        isReserved: fc.boolean(),
      }),
      { maxLength: 30 },
    );
    fc.assert(
      fc.property(packets, fc.integer({ min: 1, max: 400 }), (all, snapLengthBytes) => {
        const buffer = new Uint8Array(1000).fill(0xee);
        const capture = new Memory({
          interfaces: [
            { name: "hn0", macAddress: Uint8Array.of(0, 21, 93, 1, 2, 3) },
            { name: "hn1", description: "switch lan" },
          ],
          snapLengthBytes,
          buffer,
        });
        const { writer } = capture;
        for (const { index, frame, timeUs, flags, isWritten, isReserved } of all) {
          capture.timeUs = timeUs;
          if (isReserved) {
            const at = writer.reserve(index, frame.byteLength, flags);
            buffer.set(frame.subarray(0, snapLengthBytes), at);
          } else expect(writer.packet(index, frame, flags)).toBe(true);
          // The same memory is used again.
          if (isWritten) writer.flush();
        }
        writer.close();
        const read = readCapture(capture.file);
        expect(read.packets).toEqual(
          all.map(({ index, frame, timeUs, flags }) => ({
            interface: index,
            microseconds: timeUs,
            originalBytes: frame.byteLength,
            data: Buffer.from(frame.subarray(0, snapLengthBytes)),
            flags,
          })),
        );
        const [hn0, hn1] = read.interfaces.map(({ options }) => options);
        expect([hn0!.get(2), hn0!.get(6)]).toEqual([
          Buffer.from("hn0"),
          Buffer.of(0, 21, 93, 1, 2, 3),
        ]);
        expect(hn1!.get(3)).toEqual(Buffer.from("switch lan"));
        expect(read.statistics).toEqual(
          [0, 1].map((index) => [
            index,
            BigInt(all.filter((one) => one.index === index).length),
            0n,
          ]),
        );
      }),
      { numRuns: 100 },
    );
  });

  test("drops what there is no room for, and tells how much", () => {
    const capture = new Memory({ snapLengthBytes: 1000, buffer: new Uint8Array(65_536) });
    const { writer } = capture;
    writer.flush();
    capture.hasRoom = false;
    const frame = new Uint8Array(1000);
    let kept = 0;
    for (let number = 0; number < 1000; number++) {
      capture.timeUs = number;
      if (writer.packet(0, frame)) kept++;
    }
    // The buffer does not grow.
    expect(kept).toBe(Math.floor(65_536 / 1044));
    expect(writer.counters).toEqual([{ packets: kept, dropped: 1000 - kept }]);
    expect([writer.flush(), writer.close()]).toEqual([false, false]);
    capture.hasRoom = true;
    capture.timeUs = 2000;
    expect(writer.packet(0, frame)).toBe(true);
    expect(writer.close()).toBe(true);
    const { packets, statistics } = readCapture(capture.file);
    expect(packets.map(({ microseconds }) => microseconds)).toEqual([...Array(kept).keys(), 2000]);
    expect(statistics).toEqual([[0, 1001n, BigInt(1000 - kept)]]);
    expect(writer.packet(0, frame)).toBe(false);
    expect(writer.close()).toBe(true);
    expect(readCapture(capture.file).statistics).toHaveLength(1);
  });

  test("needs a buffer for a packet, and room for what describes the interfaces", () => {
    const options = { snapLengthBytes: 100, buffer: new Uint8Array(143) };
    expect(() => new Memory(options)).toThrow(RangeError);
    const buffer = new Uint8Array(144);
    expect(() => new Memory({ ...options, buffer })).not.toThrow();
    const interfaces = [{ name: "x".repeat(200) }];
    expect(() => new Memory({ ...options, buffer, interfaces })).toThrow(RangeError);
  });

  test("leaves nothing on the heap for a packet", () => {
    const writer = new PcapngWriter({
      application: "test",
      interfaces: [{ name: "hn0" }],
      nowUs: () => 1.7e15 + 0.25,
      write: () => true,
    });
    const frame = new Uint8Array(60);
    const run = (): void => {
      for (let number = 0; number < 10_000; number++) {
        writer.packet(0, frame, PcapngFlag.inbound);
        writer.reserve(0, 1500, PcapngFlag.outbound);
      }
    };
    expect(leastGarbage(20_000, run)).toBeLessThan(1);
  });
});

const missing = ["tshark", "capinfos"].filter(
  (name) => spawnSync(name, ["--version"]).error !== undefined,
);
if (missing.length > 0) {
  const reason = `${missing.join(", ")} missing: apt-get install tshark`;
  if (process.env["CI"]) throw new Error(reason);
  console.log(`skipped: ${reason}`);
}

describe.skipIf(missing.length > 0)("Wireshark's tools", () => {
  test("read a capture as it was meant", () => {
    const directory = mkdtempSync(join(tmpdir(), "pcapng-"));
    try {
      const capture = new Memory({
        interfaces: [
          { name: "hn0", description: "a guest's", macAddress: Uint8Array.of(0, 21, 93, 1, 2, 3) },
          { name: "hn1" },
        ],
        snapLengthBytes: 60,
      });
      const { writer } = capture;
      const arp = Buffer.from(
        "ffffffffffff00155d0a14010806000108000604000100155d0a1401c0000201000000000000c0000202",
        "hex",
      );
      capture.timeUs = 1_700_000_000_123_456;
      writer.packet(0, arp, PcapngFlag.outbound);
      capture.timeUs += 876_545;
      writer.packet(1, arp, PcapngFlag.inbound);
      capture.timeUs += 999_999;
      writer.packet(1, Buffer.concat([arp, arp]));
      writer.close();
      const path = join(directory, "capture.pcapng");
      writeFileSync(path, capture.file);
      const run = (command: string, ...args: string[]): string =>
        execFileSync(command, args, { encoding: "utf8", stdio: ["ignore", "pipe", "ignore"] });
      const fields = ["frame.time_epoch", "frame.interface_name", "frame.len", "frame.cap_len"];
      expect(
        run("tshark", "-r", path, "-T", "fields", ...fields.flatMap((name) => ["-e", name])).split(
          "\n",
        ),
      ).toEqual([
        "1700000000.123456000\thn0\t42\t42",
        "1700000001.000001000\thn1\t42\t42",
        "1700000002.000000000\thn1\t84\t60",
        "",
      ]);
      expect(
        run("tshark", "-r", path, "-Y", "arp.opcode == 1 && frame.packet_flags_direction == 2"),
      ).toContain("Who has 192.0.2.2? Tell 192.0.2.1");
      const info = run("capinfos", "-M", path);
      for (const line of [
        /File type: .*pcapng/,
        /Capture length = 60/,
        /Number of packets: +3$/m,
        /Capture application: +test/,
        /Time precision = microseconds \(6\)/,
        /Number of stat entries = 1/,
      ])
        expect(info).toMatch(line);
    } finally {
      rmSync(directory, { recursive: true });
    }
  });
});
