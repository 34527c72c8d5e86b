// Frames by slow, obvious code, for tests of the fast one.
import fc from "fast-check";
import { expect } from "vitest";
import type { GpaRuns } from "@hyperv-is/vmbus-core";
import { Frame } from "../src/switch/frame.js";
import { privateMemory, type FrameMemory } from "../src/switch/frame-memory.js";

/** A TCP or UDP packet in an Ethernet frame, as one thinks of it. */
export interface Packet {
  readonly ipVersion: 4 | 6;
  /** 802.1Q tag among the bytes. */
  readonly tag?: number | undefined;
  readonly protocol: 6 | 17;
  /** Words of IPv4 options, or 8-byte units of an IPv6 destination options header. */
  readonly ipOptions: number;
  /** Words of TCP options. */
  readonly tcpOptions: number;
  readonly flags: number;
  readonly sequence: number;
  readonly identification: number;
  readonly payload: readonly number[];
}

const destination = [0x00, 0x15, 0x5d, 0x0a, 0x01, 0x02];
const source = [0x00, 0x15, 0x5d, 0x0a, 0x01, 0x01];

export const words16 = (...values: number[]): number[] =>
  values.flatMap((value) => [(value >>> 8) & 0xff, value & 0xff]);
const words32 = (value: number): number[] => words16(value >>> 16, value & 0xffff);

/** The internet checksum of bytes. */
export function checksum(bytes: readonly number[]): number {
  let sum = 0;
  for (let index = 0; index < bytes.length; index += 2) {
    sum += bytes[index]! * 256 + (bytes[index + 1] ?? 0);
    if (sum > 0xffff) sum -= 0xffff;
  }
  return 0xffff - sum;
}

const addresses = (ipVersion: 4 | 6): number[] =>
  ipVersion === 4
    ? [192, 0, 2, 1, 192, 0, 2, 2]
    : [1, 2].flatMap((last) => [0x20, 0x01, 0x0d, 0xb8, ...Array<number>(11).fill(0), last]);

const pseudoHeader = (ipVersion: 4 | 6, protocol: number, lengthBytes: number): number[] => [
  ...addresses(ipVersion),
  ...words32(lengthBytes),
  ...words32(protocol),
];

/** How a packet's transport checksum is. */
export type ChecksumForm =
  | "full"
  /** Sum of the pseudo-header with the length, as virtio has it. */
  | "partial"
  /** Sum of the pseudo-header without the length, and no IP lengths nor header checksum: as LSOv2 has it. */
  | "lso";

function transport(packet: Packet, form: ChecksumForm): number[] {
  const { protocol, payload, ipVersion, tcpOptions, flags, sequence } = packet;
  const build = (field: number): number[] =>
    protocol === 6
      ? [
          ...words16(49152, 443),
          ...words32(sequence),
          ...words32(0x0a0b0c0d),
          (5 + tcpOptions) << 4,
          flags,
          ...words16(0xffff, field, 0),
          ...Array<number>(tcpOptions * 4).fill(1),
          ...payload,
        ]
      : [...words16(49152, 443, 8 + payload.length, field), ...payload];
  const bytes = build(0);
  const pseudo = pseudoHeader(ipVersion, protocol, form === "lso" ? 0 : bytes.length);
  if (form !== "full") return build(0xffff - checksum(pseudo));
  const full = checksum([...pseudo, ...bytes]);
  return build(protocol === 17 && full === 0 ? 0xffff : full);
}

/** The frame's bytes. */
export function build(packet: Packet, form: ChecksumForm = "full"): Uint8Array {
  const { ipVersion, tag, protocol, ipOptions, identification } = packet;
  const payload = transport(packet, form);
  const isLso = form === "lso";
  let network: number[];
  if (ipVersion === 4) {
    const headerBytes = 20 + ipOptions * 4;
    const header = (sum: number): number[] => [
      0x40 | (5 + ipOptions),
      0,
      ...words16(isLso ? 0 : headerBytes + payload.length, identification, 0x4000),
      64,
      protocol,
      ...words16(sum),
      ...addresses(4),
      ...Array<number>(ipOptions * 4).fill(1),
    ];
    network = header(isLso ? 0 : checksum(header(0)));
  } else {
    const extension =
      ipOptions === 0 ? [] : [protocol, ipOptions - 1, ...Array<number>(ipOptions * 8 - 2).fill(0)];
    const lengthBytes = isLso ? 0 : extension.length + payload.length;
    const next = ipOptions === 0 ? protocol : 60;
    network = [0x60, 0, 0, 0, ...words16(lengthBytes), next, 64, ...addresses(6), ...extension];
  }
  return Uint8Array.from([
    ...destination,
    ...source,
    ...(tag === undefined ? [] : words16(0x8100, tag)),
    ...words16(ipVersion === 4 ? 0x0800 : 0x86dd),
    ...network,
    ...payload,
  ]);
}

/** Where the transport header of the frame begins. */
export function transportAt({ ipVersion, tag, ipOptions }: Packet): number {
  const network = tag === undefined ? 14 : 18;
  return network + (ipVersion === 4 ? 20 + 4 * ipOptions : 40 + 8 * ipOptions);
}

/** What a card makes of a super-frame. */
export function segments(packet: Packet, segmentBytes: number): Uint8Array[] {
  const { payload, flags, sequence, identification } = packet;
  const count = Math.max(Math.ceil(payload.length / segmentBytes), 1);
  return Array.from({ length: count }, (_, index) => {
    let own = flags;
    if (index > 0) own &= ~0x80;
    if (index < count - 1) own &= ~0x09;
    return build({
      ...packet,
      flags: own,
      sequence: (sequence + index * segmentBytes) % 2 ** 32,
      identification: (identification + index) % 2 ** 16,
      payload: payload.slice(index * segmentBytes, (index + 1) * segmentBytes),
    });
  });
}

/** Packets of all kinds. */
export const packets = (most: { payload: number; protocols?: readonly (6 | 17)[] }) =>
  fc
    .record({
      ipVersion: fc.constantFrom(4 as const, 6 as const),
      tag: fc.option(fc.nat(0xffff), { nil: undefined }),
      protocol: fc.constantFrom(...(most.protocols ?? [6 as const, 17 as const])),
      ipOptions: fc.nat(10),
      tcpOptions: fc.nat(10),
      flags: fc.nat(0xff),
      sequence: fc.nat(0xffff_ffff),
      identification: fc.nat(0xffff),
      payloadBytes: fc.nat(most.payload),
      fill: fc.nat(0xff),
      step: fc.nat(0xff),
    })
    .map(({ payloadBytes, fill, step, ...packet }): Packet => ({
      ...packet,
      payload: Array.from(
        { length: payloadBytes },
        (_, index) => (fill + step * index + (index >>> 8)) & 0xff,
      ),
    }));

/** How the bytes of a frame lie in memory: gaps before each run, and lengths of runs. */
export const layouts = fc.array(
  fc.record({ gap: fc.nat(20), length: fc.integer({ min: 1, max: 3000 }) }),
  { minLength: 1, maxLength: 6 },
);
export type Layout = readonly { readonly gap: number; readonly length: number }[];

/** A memory with bytes in runs; the last run takes what is left. */
export class Scattered implements GpaRuns {
  readonly memory: FrameMemory = privateMemory(128 * 1024);
  readonly #runs: [address: number, lengthBytes: number][] = [];
  readonly lengthBytes: number;

  constructor(bytes: Uint8Array, layout: Layout = [{ gap: 0, length: bytes.length }]) {
    this.memory.bytes.fill(0xee);
    this.lengthBytes = bytes.length;
    let at = 0;
    for (let done = 0, run = 0; done < bytes.length; run++) {
      const { gap, length } = layout[run] ?? { gap: 3, length: bytes.length };
      at += gap;
      const piece = Math.min(length, bytes.length - done);
      this.memory.bytes.set(bytes.subarray(done, done + piece), at);
      this.#runs.push([at, piece]);
      at += piece;
      done += piece;
    }
  }

  get runs(): number {
    return this.#runs.length;
  }

  runAddress(index: number): number {
    return this.#runs[index]![0];
  }

  runLength(index: number): number {
    return this.#runs[index]![1];
  }
}

/** A frame with these bytes. */
export function frameOf(bytes: Uint8Array, layout?: Layout): Frame {
  const scattered = new Scattered(bytes, layout);
  const frame = new Frame();
  frame.load(scattered.memory, scattered, 0, bytes.length);
  return frame;
}

const copy = privateMemory(128 * 1024);

/** The bytes of a frame, from a copy that lies where it may. */
export function bytesOf(frame: Frame, at = 0): Uint8Array {
  copy.bytes.fill(0xdd);
  const lengthBytes = frame.copyTo(copy, at);
  if (copy.bytes[at + lengthBytes] !== 0xdd || (at > 0 && copy.bytes[at - 1] !== 0xdd))
    throw new Error("bytes beside the frame were written");
  return copy.bytes.slice(at, at + lengthBytes);
}

/** Asserts that bytes are equal; as text, which is compared faster than arrays are. */
export function expectBytes(actual: Uint8Array, expected: Uint8Array): void {
  expect(Buffer.from(actual).toString("hex")).toBe(Buffer.from(expected).toString("hex"));
}

/** The same of several. */
export function expectFrames(actual: readonly Uint8Array[], expected: readonly Uint8Array[]): void {
  const text = (list: readonly Uint8Array[]): string[] =>
    list.map((bytes) => Buffer.from(bytes).toString("hex"));
  expect(text(actual)).toEqual(text(expected));
}

export const hex = (text: string): Uint8Array =>
  Uint8Array.from(text.replaceAll(/\s/g, "").match(/../g) ?? [], (pair) => parseInt(pair, 16));
