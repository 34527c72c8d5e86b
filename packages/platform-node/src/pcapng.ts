// Captures as pcapng (draft-ietf-opsawg-pcapng): one section, little-endian, timestamps in microseconds.

const BlockType = {
  section: 0x0a0d_0d0a,
  interface: 1,
  statistics: 5,
  packet: 6,
} as const;

const OptionCode = {
  end: 0,
  sectionApplication: 4,
  interfaceName: 2,
  interfaceDescription: 3,
  interfaceMac: 6,
  packetFlags: 2,
  statisticsReceived: 4,
  statisticsDropped: 5,
} as const;

const BYTE_ORDER_MAGIC = 0x1a2b_3c4d;
const LINKTYPE_ETHERNET = 1;
const WORD = 0x1_0000_0000;
/** An Enhanced Packet Block up to its data. */
const PACKET_HEADER_BYTES = 28;
/** What follows its data: an option of flags, the end of options, the block's length. */
const PACKET_TRAILER_BYTES = 8 + 4 + 4;

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
  readonly description?: string | undefined;
  /** 6 bytes. */
  readonly macAddress?: Uint8Array | undefined;
}

export interface PcapngOptions {
  /** The interfaces, by the number that packets are given. */
  readonly interfaces: readonly PcapngInterface[];
  /** Which program captures. */
  readonly application: string;
  /** Longest part of a frame that is kept, in bytes; 262,144 unless told. */
  readonly snapLengthBytes?: number | undefined;
  /**
   * Where packets wait until they are written, with room for one of the snap length and for what describes the
   * interfaces; belongs to the writer from now on. 1 MiB of its own unless told.
   */
  readonly buffer?: Uint8Array;
  /** The time, in microseconds since 1970: asked for each packet. */
  nowUs(): number;
  /**
   * Takes the next bytes of the capture, which are valid during the call.
   *
   * @returns False if there is no room for them; they are offered again.
   */
  write(chunk: Uint8Array): boolean;
}

const SNAP_LENGTH_BYTES = 262_144;
const BUFFER_BYTES = 2 ** 20;

/**
 * Writes a capture. Packets wait in a buffer that does not grow, until it is full or flushed; what finds no room is
 * dropped and counted, here and at the end of the capture. Allocates nothing for a packet.
 */
export class PcapngWriter {
  readonly snapLengthBytes: number;
  readonly #nowUs: () => number;
  readonly #write: (chunk: Uint8Array) => boolean;
  readonly #bytes: Uint8Array;
  readonly #view: DataView;
  readonly #counters: { packets: number; dropped: number }[];
  #filledBytes = 0;
  #isClosed = false;

  /** Throws `RangeError` if the buffer is too small. */
  constructor(options: PcapngOptions) {
    const { application, interfaces, snapLengthBytes = SNAP_LENGTH_BYTES } = options;
    this.snapLengthBytes = snapLengthBytes;
    this.#nowUs = () => options.nowUs();
    this.#write = (chunk) => options.write(chunk);
    this.#bytes = options.buffer ?? new Uint8Array(BUFFER_BYTES);
    const { buffer, byteOffset, byteLength } = this.#bytes;
    if (byteLength < packetBytes(snapLengthBytes))
      throw new RangeError(`no packet of ${snapLengthBytes} bytes fits in ${byteLength} bytes`);
    this.#view = new DataView(buffer, byteOffset, byteLength);
    this.#counters = interfaces.map(() => ({ packets: 0, dropped: 0 }));
    this.#block(
      BlockType.section,
      // Version 1.0; the length of the section is not known.
      [BYTE_ORDER_MAGIC, 1, 0xffff_ffff, 0xffff_ffff],
      [[OptionCode.sectionApplication, encode(application)]],
    );
    for (const { name, description, macAddress } of interfaces)
      this.#block(
        BlockType.interface,
        [LINKTYPE_ETHERNET, snapLengthBytes],
        [
          [OptionCode.interfaceName, encode(name)],
          [OptionCode.interfaceDescription, encode(description)],
          [OptionCode.interfaceMac, macAddress],
        ],
      );
  }

  /** What was captured on each interface, and what found no room. */
  get counters(): readonly { readonly packets: number; readonly dropped: number }[] {
    return this.#counters;
  }

  /**
   * Adds a packet.
   *
   * @param frame - from its Ethernet header on, without a checksum. @param flags - `PcapngFlag`.
   * @returns False if it was dropped.
   */
  packet(interfaceIndex: number, frame: Uint8Array, flags = 0): boolean {
    const at = this.reserve(interfaceIndex, frame.byteLength, flags);
    if (at < 0) return false;
    const isWhole = frame.byteLength <= this.snapLengthBytes;
    this.#bytes.set(isWhole ? frame : frame.subarray(0, this.snapLengthBytes), at);
    return true;
  }

  /**
   * Adds a packet of `lengthBytes`, without its bytes: the caller puts them, `snapLengthBytes` of them at most, into the
   * buffer at once.
   *
   * @returns Where in the buffer they belong; negative if the packet was dropped.
   */
  reserve(interfaceIndex: number, lengthBytes: number, flags = 0): number {
    const counters = this.#counters[interfaceIndex];
    if (counters === undefined) throw new RangeError(`there is no interface ${interfaceIndex}`);
    const keptBytes = Math.min(lengthBytes, this.snapLengthBytes);
    const totalBytes = packetBytes(keptBytes);
    if (this.#isClosed || !this.#hasRoom(totalBytes)) {
      counters.dropped++;
      return -1;
    }
    counters.packets++;
    const timeUs = this.#nowUs();
    this.#u32(BlockType.packet);
    this.#u32(totalBytes);
    this.#u32(interfaceIndex);
    this.#u32(timeUs / WORD);
    this.#u32(timeUs % WORD);
    this.#u32(keptBytes);
    this.#u32(lengthBytes);
    const at = this.#filledBytes;
    this.#filledBytes = at + padded(keptBytes);
    this.#bytes.fill(0, at + keptBytes, this.#filledBytes);
    this.#u32(OptionCode.packetFlags | (4 << 16));
    this.#u32(flags);
    this.#u32(OptionCode.end);
    this.#u32(totalBytes);
    return at;
  }

  /** Has everything written. @returns False if there was no room for it; it is kept. */
  flush(): boolean {
    if (this.#filledBytes === 0) return true;
    if (!this.#write(this.#bytes.subarray(0, this.#filledBytes))) return false;
    this.#filledBytes = 0;
    return true;
  }

  /** Ends the capture with the counters of each interface, and has everything written. @returns As `flush` does. */
  close(): boolean {
    if (this.#isClosed || !this.flush()) return this.flush();
    this.#isClosed = true;
    const timeUs = this.#nowUs();
    this.#counters.forEach(({ packets, dropped }, index) =>
      this.#block(
        BlockType.statistics,
        [index, timeUs / WORD, timeUs % WORD],
        [
          [OptionCode.statisticsReceived, u64(packets + dropped)],
          [OptionCode.statisticsDropped, u64(dropped)],
        ],
      ),
    );
    return this.flush();
  }

  #hasRoom(wantedBytes: number): boolean {
    const { byteLength } = this.#bytes;
    if (this.#filledBytes + wantedBytes <= byteLength) return true;
    return wantedBytes <= byteLength && this.flush();
  }

  /** One of the blocks that are not packets. */
  #block(type: number, words: readonly number[], options: readonly Option[]): void {
    const told = options.filter(([, data]) => data !== undefined) as [number, Uint8Array][];
    const optionsBytes = told.reduce((sum, [, data]) => sum + 4 + padded(data.byteLength), 4);
    const totalBytes = 12 + words.length * 4 + optionsBytes;
    if (!this.#hasRoom(totalBytes)) throw new RangeError("the buffer is too small");
    for (const word of [type, totalBytes, ...words]) this.#u32(word);
    for (const [code, data] of told) {
      this.#u32(code | (data.byteLength << 16));
      const at = this.#filledBytes;
      this.#filledBytes = at + padded(data.byteLength);
      this.#bytes.fill(0, at, this.#filledBytes);
      this.#bytes.set(data, at);
    }
    this.#u32(OptionCode.end);
    this.#u32(totalBytes);
  }

  /** The next word; a fraction is cut off. */
  #u32(value: number): void {
    this.#view.setUint32(this.#filledBytes, value, true);
    this.#filledBytes += 4;
  }
}

type Option = readonly [code: number, data: Uint8Array | undefined];

function encode(text: string | undefined): Uint8Array | undefined {
  return text === undefined ? undefined : new TextEncoder().encode(text);
}

function u64(value: number): Uint8Array {
  const data = new Uint8Array(8);
  new DataView(data.buffer).setBigUint64(0, BigInt(value), true);
  return data;
}

function padded(lengthBytes: number): number {
  return (lengthBytes + 3) & ~3;
}

/** Bytes of the block of a packet. */
function packetBytes(keptBytes: number): number {
  return PACKET_HEADER_BYTES + padded(keptBytes) + PACKET_TRAILER_BYTES;
}
