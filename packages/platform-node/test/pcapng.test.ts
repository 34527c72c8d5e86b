import { execFileSync, spawnSync } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { PcapngFlag, PcapngWriter, type PcapngOptions } from "../src/index.js";
import { readCapture } from "./pcapng-reader.js";

/** A capture that is kept in memory, and whoever takes its chunks. */
function captureTo(
  options: Partial<PcapngOptions> = {},
): [PcapngWriter, () => Buffer, (next: () => Promise<void>) => void] {
  const chunks: Buffer[] = [];
  let take = (): Promise<void> => Promise.resolve();
  const writer = new PcapngWriter({
    interfaces: [{ name: "hn0" }],
    application: "test",
    ...options,
    write: (chunk) => {
      chunks.push(Buffer.from(chunk));
      return take();
    },
  });
  return [writer, () => Buffer.concat(chunks), (next) => void (take = next)];
}

describe("a capture", () => {
  test("is what the format says, byte for byte", async () => {
    const [writer, file] = captureTo();
    writer.packet(0, Uint8Array.of(1, 2, 3, 4, 5), 1, 2, PcapngFlag.inbound);
    await writer.close();
    expect(file().toString("hex")).toBe(
      [
        // Section header: application "test".
        "0a0d0d0a 28000000 4d3c2b1a 0100 0000 ffffffffffffffff 0400 0400 74657374 00000000 28000000",
        // Interface: Ethernet, snap length 262144, name "hn0", 10^-9.
        "01000000 28000000 0100 0000 00000400 0200 0300 686e3000 0900 0100 09000000 00000000 28000000",
        // Packet at 1.000000002 s: five bytes, inbound.
        "06000000 34000000 00000000 00000000 02ca9a3b 05000000 05000000 0102030405000000",
        "0200 0400 01000000 00000000 34000000",
        // Statistics: one received, none dropped.
        "05000000 34000000 00000000 00000000 02ca9a3b 0400 0800 0100000000000000",
        "0500 0800 0000000000000000 00000000 34000000",
      ]
        .join("")
        .replaceAll(" ", ""),
    );
  });

  test("keeps all packets with their times, and says what each interface is", async () => {
    const packets = fc.array(
      fc.record({
        index: fc.nat(1),
        frame: fc.uint8Array({ maxLength: 300 }),
        seconds: fc.nat(2 ** 33),
        nanoseconds: fc.nat(999_999_999),
        flags: fc.constantFrom(
          0,
          PcapngFlag.outbound,
          PcapngFlag.inbound | PcapngFlag.checksumValid,
        ),
        missing: fc.nat(100),
      }),
      { maxLength: 30 },
    );
    await fc.assert(
      fc.asyncProperty(packets, fc.integer({ min: 1, max: 400 }), async (all, snapLengthBytes) => {
        const [writer, file] = captureTo({
          interfaces: [
            { name: "hn0", macAddress: Uint8Array.of(0, 21, 93, 1, 2, 3), hardware: "netvsc" },
            { name: "hn1", description: "switch lan", speedBitsPerSecond: 1e11 },
          ],
          snapLengthBytes,
        });
        for (const { index, frame, seconds, nanoseconds, flags, missing } of all) {
          expect(
            writer.packet(index, frame, seconds, nanoseconds, flags, frame.byteLength + missing),
          ).toBe(true);
          // The same memory is used again.
          if (missing % 2 === 0) await writer.flush();
        }
        await writer.close();
        const read = readCapture(file());
        expect(read.packets).toEqual(
          all.map(({ index, frame, seconds, nanoseconds, flags, missing }) => ({
            interface: index,
            nanoseconds: BigInt(seconds) * 10n ** 9n + BigInt(nanoseconds),
            originalBytes: frame.byteLength + missing,
            data: Buffer.from(frame.subarray(0, snapLengthBytes)),
            flags,
          })),
        );
        const [hn0, hn1] = read.interfaces.map(({ options }) => options);
        expect([hn0!.get(2), hn0!.get(6), hn0!.get(15)]).toEqual([
          Buffer.from("hn0"),
          Buffer.of(0, 21, 93, 1, 2, 3),
          Buffer.from("netvsc"),
        ]);
        expect([hn1!.get(3), hn1!.get(8)?.readBigUInt64LE()]).toEqual([
          Buffer.from("switch lan"),
          10n ** 11n,
        ]);
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

  test("drops what a slow writer leaves no room for, and tells how much", async () => {
    const [writer, file, whenTaken] = captureTo({ snapLengthBytes: 1000, bufferBytes: 1 });
    await writer.flush();
    let release = (): void => undefined;
    whenTaken(() => new Promise((resolve) => (release = resolve)));
    const frame = new Uint8Array(1000);
    let kept = 0;
    for (let number = 0; number < 1000; number++) if (writer.packet(0, frame, number, 0)) kept++;
    // The buffer does not grow: one packet is being written, one half is full.
    expect(kept).toBe(1 + Math.floor(65_536 / 1032));
    expect(writer.counters).toEqual([{ packets: kept, dropped: 1000 - kept }]);
    whenTaken(() => Promise.resolve());
    release();
    await writer.flush();
    expect(writer.packet(0, frame, 2000, 0)).toBe(true);
    await writer.close();
    const { packets, statistics } = readCapture(file());
    expect(packets.map(({ nanoseconds }) => Number(nanoseconds / 10n ** 9n))).toEqual([
      ...Array(kept).keys(),
      2000,
    ]);
    expect(statistics).toEqual([[0, 1001n, BigInt(1000 - kept)]]);
    expect(writer.packet(0, frame, 2001, 0)).toBe(false);
  });

  test("ends when it cannot be written any more, with the reason", async () => {
    const [writer, , whenTaken] = captureTo();
    await writer.flush();
    whenTaken(() => Promise.reject(new Error("no space")));
    expect(writer.packet(0, new Uint8Array(60), 0, 0)).toBe(true);
    await expect(writer.flush()).rejects.toThrow("no space");
    expect(writer.failure).toMatchObject({ message: "no space" });
    expect(writer.packet(0, new Uint8Array(60), 0, 0)).toBe(false);
    await expect(writer.close()).rejects.toThrow("no space");
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
  test("read a capture as it was meant", async () => {
    const directory = mkdtempSync(join(tmpdir(), "pcapng-"));
    try {
      const [writer, file] = captureTo({
        interfaces: [
          { name: "hn0", description: "a guest's", macAddress: Uint8Array.of(0, 21, 93, 1, 2, 3) },
          { name: "hn1", speedBitsPerSecond: 1e10 },
        ],
      });
      const arp = Buffer.from(
        "ffffffffffff00155d0a14010806000108000604000100155d0a1401c0000201000000000000c0000202",
        "hex",
      );
      writer.packet(0, arp, 1_700_000_000, 123_456_789, PcapngFlag.outbound);
      writer.packet(1, arp, 1_700_000_001, 1, PcapngFlag.inbound | PcapngFlag.checksumNotReady);
      writer.packet(1, arp.subarray(0, 20), 1_700_000_002, 0, 0, arp.byteLength);
      await writer.close();
      const path = join(directory, "capture.pcapng");
      writeFileSync(path, file());
      const run = (command: string, ...args: string[]): string =>
        execFileSync(command, args, { encoding: "utf8", stdio: ["ignore", "pipe", "ignore"] });
      const fields = ["frame.time_epoch", "frame.interface_name", "frame.len", "frame.cap_len"];
      expect(
        run("tshark", "-r", path, "-T", "fields", ...fields.flatMap((name) => ["-e", name])).split(
          "\n",
        ),
      ).toEqual([
        "1700000000.123456789\thn0\t42\t42",
        "1700000001.000000001\thn1\t42\t42",
        "1700000002.000000000\thn1\t42\t20",
        "",
      ]);
      expect(
        run("tshark", "-r", path, "-Y", "arp.opcode == 1 && frame.packet_flags_direction == 2"),
      ).toContain("Who has 192.0.2.2? Tell 192.0.2.1");
      const info = run("capinfos", "-M", path);
      for (const line of [
        /File type: .*pcapng/,
        /Capture length = 262144/,
        /Number of packets: +3$/m,
        /Capture application: +test/,
        /Time precision = nanoseconds \(9\)/,
        /Number of stat entries = 1/,
        /Speed = 10000000000/,
      ])
        expect(info).toMatch(line);
    } finally {
      rmSync(directory, { recursive: true });
    }
  });
});
