// A strict reader of pcapng, written from draft-ietf-opsawg-pcapng and not from the writer's constants.

export interface ReadPacket {
  readonly interface: number;
  readonly microseconds: number;
  readonly originalBytes: number;
  readonly data: Buffer;
  readonly flags: number;
}

export interface Capture {
  readonly application: string;
  readonly interfaces: readonly {
    readonly linkType: number;
    readonly snapLength: number;
    readonly options: ReadonlyMap<number, Buffer>;
  }[];
  readonly packets: readonly ReadPacket[];
  /** Received and dropped, by interface. */
  readonly statistics: readonly (readonly [number, bigint, bigint])[];
}

function fail(at: number, rule: string): never {
  throw new Error(`offset ${at}: ${rule}`);
}

/** Options up to the end of a block: known once at most, padded with zeros, ended. */
function readOptions(block: Buffer, from: number, to: number): Map<number, Buffer> {
  const options = new Map<number, Buffer>();
  for (let at = from; at < to;) {
    if (at + 4 > to) fail(at, "an option's header leaves the block");
    const code = block.readUInt16LE(at);
    const length = block.readUInt16LE(at + 2);
    if (code === 0) {
      if (length !== 0) fail(at, "opt_endofopt has a length");
      if (at + 4 !== to) fail(at, "something follows opt_endofopt");
      return options;
    }
    const end = at + 4 + length;
    const next = at + 4 + Math.ceil(length / 4) * 4;
    if (next > to) fail(at, "an option leaves the block");
    if (block.subarray(end, next).some((byte) => byte !== 0)) fail(at, "padding is not zero");
    if (options.has(code)) fail(at, `option ${code} is there twice`);
    options.set(code, block.subarray(at + 4, end));
    at = next;
  }
  if (options.size > 0) fail(to, "options have no end");
  return options;
}

/** Reads a capture of one section in little-endian; throws with the offset and the rule that is broken. */
export function readCapture(file: Uint8Array): Capture {
  const bytes = Buffer.from(file);
  let application: string | undefined;
  const interfaces: Capture["interfaces"][number][] = [];
  const packets: ReadPacket[] = [];
  const statistics: (readonly [number, bigint, bigint])[] = [];
  for (let at = 0; at < bytes.byteLength;) {
    if (at + 12 > bytes.byteLength) fail(at, "a block's header leaves the file");
    const type = bytes.readUInt32LE(at);
    const length = bytes.readUInt32LE(at + 4);
    if (length % 4 !== 0 || length < 12) fail(at, `a block of ${length} bytes`);
    if (at + length > bytes.byteLength) fail(at, "a block leaves the file");
    const block = bytes.subarray(at, at + length);
    const bodyEnd = length - 4;
    if (block.readUInt32LE(bodyEnd) !== length) fail(at, "the two lengths differ");
    if ((at === 0) !== (type === 0x0a0d0d0a)) fail(at, "a section header at its place");
    const known = (index: number): number =>
      index < interfaces.length ? index : fail(at, `interface ${index} is not described`);
    const time = (): number => block.readUInt32LE(12) * 2 ** 32 + block.readUInt32LE(16);
    switch (type) {
      case 0x0a0d0d0a: {
        if (block.readUInt32LE(8) !== 0x1a2b3c4d) fail(at, "byte-order magic");
        if (block.readUInt16LE(12) !== 1 || block.readUInt16LE(14) !== 0) fail(at, "version");
        if (block.readBigInt64LE(16) !== -1n) fail(at, "section length");
        application = readOptions(block, 24, bodyEnd).get(4)?.toString();
        break;
      }
      case 1: {
        if (packets.length > 0) fail(at, "an interface is described after packets");
        if (block.readUInt16LE(10) !== 0) fail(at, "reserved field");
        const options = readOptions(block, 16, bodyEnd);
        if (options.has(9) || options.has(14)) fail(at, "times are not in microseconds since 1970");
        interfaces.push({
          linkType: block.readUInt16LE(8),
          snapLength: block.readUInt32LE(12),
          options,
        });
        break;
      }
      case 6: {
        const index = known(block.readUInt32LE(8));
        const captured = block.readUInt32LE(20);
        const originalBytes = block.readUInt32LE(24);
        const { snapLength } = interfaces[index]!;
        if (captured > originalBytes || captured > snapLength) fail(at, "captured length");
        const end = 28 + captured;
        const optionsAt = 28 + Math.ceil(captured / 4) * 4;
        if (optionsAt > bodyEnd) fail(at, "packet data leaves the block");
        if (block.subarray(end, optionsAt).some((byte) => byte !== 0)) fail(at, "packet padding");
        const flags = readOptions(block, optionsAt, bodyEnd).get(2)?.readUInt32LE() ?? 0;
        if (statistics.length > 0) fail(at, "a packet after the statistics");
        packets.push({
          interface: index,
          microseconds: time(),
          originalBytes,
          data: block.subarray(28, end),
          flags,
        });
        break;
      }
      case 5: {
        const options = readOptions(block, 20, bodyEnd);
        const count = (code: number): bigint => options.get(code)!.readBigUInt64LE();
        statistics.push([known(block.readUInt32LE(8)), count(4), count(5)]);
        break;
      }
      default:
        fail(at, `a block of type ${type}`);
    }
    at += length;
  }
  if (application === undefined) fail(0, "no application");
  return { application, interfaces, packets, statistics };
}
