// Captures as pcapng (draft-ietf-opsawg-pcapng): one section, little-endian, timestamps in nanoseconds.

const BlockType = {
  section: 0x0a0d_0d0a,
  interface: 1,
  statistics: 5,
  packet: 6,
} as const;

const OptionCode = {
  end: 0,
  comment: 1,
  sectionHardware: 2,
  sectionOs: 3,
  sectionApplication: 4,
  interfaceName: 2,
  interfaceDescription: 3,
  interfaceMac: 6,
  interfaceSpeed: 8,
  interfaceTimeResolution: 9,
  interfaceHardware: 15,
  packetFlags: 2,
  statisticsReceived: 4,
  statisticsDropped: 5,
} as const;

const BYTE_ORDER_MAGIC = 0x1a2b_3c4d;
const LINKTYPE_ETHERNET = 1;
/** 10^-9 seconds. */
const NANOSECONDS = 9;
const NANOSECONDS_PER_SECOND = 1_000_000_000;
const WORD = 0x1_0000_0000;
/** An Enhanced Packet Block without its data and its padding, with an option of flags. */
const PACKET_BLOCK_BYTES = 28 + 8 + 4 + 4;

/** Bits of a packet's flags, `epb_flags`. */
export const PcapngFlag = {
  inbound: 1,
  outbound: 2,
  /** The checksum of TCP or UDP in the frame is not computed yet. */
  checksumNotReady: 1 << 9,
  /** The checksum was checked; the bytes in the frame need not be right. */
  checksumValid: 1 << 10,
  /** The frame is longer than those on the wire: it is segmented later. */
  segmentationOffloaded: 1 << 11,
} as const;

/** An interface whose packets are captured. */
export interface PcapngInterface {
  readonly name: string;
  readonly description?: string;
  /** 6 bytes. */
  readonly macAddress?: Uint8Array;
  /** Which hardware it is, for people. */
  readonly hardware?: string;
  readonly speedBitsPerSecond?: number;
}

export interface PcapngOptions {
  /** The interfaces, by the number that `packet` is given. */
  readonly interfaces: readonly PcapngInterface[];
  /** Which program captures. */
  readonly application: string;
  /** Longest part of a frame that is kept, in bytes; 262,144 unless told. */
  readonly snapLengthBytes?: number;
  /** Room for packets that are not written yet; 4 MiB unless told, and never less than for two of the snap length. */
  readonly bufferBytes?: number;
  /**
   * Takes the next bytes of the capture, which are valid until what it returns is resolved; not called again before.
   * When it fails, the capture ends.
   */
  write(chunk: Uint8Array): Promise<void>;
}

const SNAP_LENGTH_BYTES = 262_144;
const BUFFER_BYTES = 4 * 2 ** 20;
/** Room for the descriptions of the interfaces, at the beginning. */
const HALF_BYTES_MIN = 65_536;

/**
 * Writes a capture. Packets are copied into a buffer of fixed size and written from there as fast as they are taken;
 * what finds no room is dropped and counted, here and at the end of the capture.
 */
export class PcapngWriter {
  readonly #options: PcapngOptions;
  readonly #snapLengthBytes: number;
  /** One is filled while the other is written. */
  readonly #halves: [Half, Half];
  readonly #counters: { packets: number; dropped: number }[];
  #filling = 0;
  #writing: Promise<void> | undefined;
  #failure: Error | undefined;
  #closed = false;
  #lastSeconds = 0;
  #lastNanoseconds = 0;

  constructor(options: PcapngOptions) {
    this.#options = options;
    this.#snapLengthBytes = options.snapLengthBytes ?? SNAP_LENGTH_BYTES;
    const halfBytes = Math.max(
      Math.ceil((options.bufferBytes ?? BUFFER_BYTES) / 2),
      this.#snapLengthBytes + PACKET_BLOCK_BYTES + 3,
      HALF_BYTES_MIN,
    );
    this.#halves = [new Half(halfBytes), new Half(halfBytes)];
    this.#counters = options.interfaces.map(() => ({ packets: 0, dropped: 0 }));
    this.#putHeaders();
    this.#write();
  }

  /** What was captured on each interface, and what found no room. */
  get counters(): readonly { readonly packets: number; readonly dropped: number }[] {
    return this.#counters;
  }

  /** Why the capture has ended; undefined while it goes on. */
  get failure(): Error | undefined {
    return this.#failure;
  }

  /**
   * Adds a packet.
   * @param frame - From its Ethernet header on, without a checksum.
   * @param seconds - Time of the capture since 1970; `nanoseconds` is the fraction, below 10^9.
   * @param flags - `PcapngFlag`.
   * @param originalBytes - Length on the wire, where `frame` is only its beginning.
   * @returns False if it was dropped.
   */
  packet(
    interfaceIndex: number,
    frame: Uint8Array,
    seconds: number,
    nanoseconds: number,
    flags = 0,
    originalBytes = frame.byteLength,
  ): boolean {
    const counters = this.#counters[interfaceIndex];
    if (counters === undefined) throw new RangeError(`there is no interface ${interfaceIndex}`);
    const capturedBytes = Math.min(frame.byteLength, this.#snapLengthBytes);
    const totalBytes = PACKET_BLOCK_BYTES + padded(capturedBytes) - (flags === 0 ? 12 : 0);
    const half = this.#halves[this.#filling]!;
    if (this.#closed || this.#failure !== undefined || half.freeBytes < totalBytes) {
      counters.dropped++;
      return false;
    }
    counters.packets++;
    this.#lastSeconds = seconds;
    this.#lastNanoseconds = nanoseconds;
    half.begin(BlockType.packet, totalBytes);
    half.u32(interfaceIndex);
    half.time(seconds, nanoseconds);
    half.u32(capturedBytes);
    half.u32(originalBytes);
    half.data(frame, capturedBytes);
    if (flags !== 0) {
      half.optionHeader(OptionCode.packetFlags, 4);
      half.u32(flags);
      half.endOptions();
    }
    half.end(totalBytes);
    this.#write();
    return true;
  }

  /** Resolves when everything added so far was taken; rejects with what `write` failed with. */
  async flush(): Promise<void> {
    while (this.#writing !== undefined) await this.#writing;
    if (this.#failure !== undefined) throw this.#failure;
  }

  /** Ends the capture with the counters of each interface. Rejects with what `write` failed with. */
  async close(): Promise<void> {
    if (!this.#closed) {
      this.#closed = true;
      // The counters need room too.
      await this.flush();
      this.#putStatistics();
      this.#write();
    }
    await this.flush();
  }

  /** Has what is in the buffer written, unless that is going on. */
  #write(): void {
    const half = this.#halves[this.#filling]!;
    if (this.#writing !== undefined || half.filledBytes === 0 || this.#failure !== undefined)
      return;
    this.#filling = 1 - this.#filling;
    const taken = (): void => {
      half.clear();
      this.#writing = undefined;
      this.#write();
    };
    this.#writing = this.#options.write(half.filled).then(taken, (error: unknown) => {
      this.#failure = error instanceof Error ? error : new Error("the capture cannot be written");
      taken();
    });
  }

  #putHeaders(): void {
    const [half] = this.#halves;
    const { application, interfaces } = this.#options;
    const section: Option[] = [[OptionCode.sectionApplication, encode(application)]];
    const sectionBytes = 28 + optionsBytes(section);
    half.begin(BlockType.section, sectionBytes);
    half.u32(BYTE_ORDER_MAGIC);
    half.u32(1); // version 1.0
    // The length of the section is not known.
    half.u32(0xffff_ffff);
    half.u32(0xffff_ffff);
    half.options(section);
    half.end(sectionBytes);
    for (const each of interfaces) {
      const options = interfaceOptions(each);
      const blockBytes = 20 + optionsBytes(options);
      half.begin(BlockType.interface, blockBytes);
      half.u32(LINKTYPE_ETHERNET);
      half.u32(this.#snapLengthBytes);
      half.options(options);
      half.end(blockBytes);
    }
  }

  #putStatistics(): void {
    const half = this.#halves[this.#filling]!;
    this.#counters.forEach(({ packets, dropped }, index) => {
      const options: Option[] = [
        [OptionCode.statisticsReceived, u64(packets + dropped)],
        [OptionCode.statisticsDropped, u64(dropped)],
      ];
      const blockBytes = 24 + optionsBytes(options);
      half.begin(BlockType.statistics, blockBytes);
      half.u32(index);
      half.time(this.#lastSeconds, this.#lastNanoseconds);
      half.options(options);
      half.end(blockBytes);
    });
  }
}

type Option = readonly [code: number, data: Uint8Array];

function interfaceOptions(described: PcapngInterface): Option[] {
  const { name, description, macAddress, hardware, speedBitsPerSecond } = described;
  const options: Option[] = [
    [OptionCode.interfaceName, encode(name)],
    [OptionCode.interfaceTimeResolution, Uint8Array.of(NANOSECONDS)],
  ];
  if (description !== undefined)
    options.push([OptionCode.interfaceDescription, encode(description)]);
  if (macAddress !== undefined) options.push([OptionCode.interfaceMac, macAddress]);
  if (speedBitsPerSecond !== undefined)
    options.push([OptionCode.interfaceSpeed, u64(speedBitsPerSecond)]);
  if (hardware !== undefined) options.push([OptionCode.interfaceHardware, encode(hardware)]);
  return options;
}

function encode(text: string): Uint8Array {
  return new TextEncoder().encode(text);
}

function u64(value: number): Uint8Array {
  const data = new Uint8Array(8);
  const view = new DataView(data.buffer);
  view.setUint32(0, value % WORD, true);
  view.setUint32(4, Math.floor(value / WORD), true);
  return data;
}

function padded(lengthBytes: number): number {
  return (lengthBytes + 3) & ~3;
}

/** Bytes of options with their end; none without options. */
function optionsBytes(options: readonly Option[]): number {
  return options.reduce((sum, [, data]) => sum + 4 + padded(data.byteLength), 4);
}

/** Blocks one after the other. */
class Half {
  readonly #bytes: Uint8Array;
  readonly #view: DataView;
  #at = 0;

  constructor(sizeBytes: number) {
    this.#bytes = new Uint8Array(sizeBytes);
    this.#view = new DataView(this.#bytes.buffer);
  }

  get filledBytes(): number {
    return this.#at;
  }

  get freeBytes(): number {
    return this.#bytes.byteLength - this.#at;
  }

  get filled(): Uint8Array {
    return this.#bytes.subarray(0, this.#at);
  }

  clear(): void {
    this.#at = 0;
  }

  u32(value: number): void {
    this.#view.setUint32(this.#at, value, true);
    this.#at += 4;
  }

  begin(type: number, totalBytes: number): void {
    this.u32(type);
    this.u32(totalBytes);
  }

  end(totalBytes: number): void {
    this.u32(totalBytes);
  }

  /** A time as 64 bits of nanoseconds, the high half first. Numbers are exact below 2^53, so it is put together from parts. */
  time(seconds: number, nanoseconds: number): void {
    const upper = Math.floor(seconds / 0x1_0000) * NANOSECONDS_PER_SECOND;
    const lower = (seconds % 0x1_0000) * NANOSECONDS_PER_SECOND + nanoseconds;
    const low = (upper % 0x1_0000) * 0x1_0000 + (lower % WORD);
    this.u32(Math.floor(upper / 0x1_0000) + Math.floor(lower / WORD) + (low >= WORD ? 1 : 0));
    this.u32(low % WORD);
  }

  /** Bytes, with zeros up to the next multiple of four. */
  data(bytes: Uint8Array, lengthBytes: number): void {
    this.#bytes.set(
      lengthBytes === bytes.byteLength ? bytes : bytes.subarray(0, lengthBytes),
      this.#at,
    );
    const end = this.#at + padded(lengthBytes);
    this.#bytes.fill(0, this.#at + lengthBytes, end);
    this.#at = end;
  }

  optionHeader(code: number, lengthBytes: number): void {
    this.u32(code | (lengthBytes << 16));
  }

  endOptions(): void {
    this.u32(OptionCode.end);
  }

  options(options: readonly Option[]): void {
    for (const [code, data] of options) {
      this.optionHeader(code, data.byteLength);
      this.data(data, data.byteLength);
    }
    this.endOptions();
  }
}
