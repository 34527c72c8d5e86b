import { setImmediate as eventLoopTurn } from "node:timers/promises";
import type { BlockDevice, GuestBuffer } from "../../kernel/block-device.js";
import type { FileNode } from "../../kernel/file-tree.js";
import { CommandError, UsageError, type Command, type CommandContext } from "../command.js";

interface Operands {
  readonly input: string | undefined;
  readonly output: string | undefined;
  readonly blockBytes: number;
  readonly count: number;
  readonly skip: number;
  readonly seek: number;
  readonly noError: boolean;
  readonly sync: boolean;
  readonly progress: boolean;
  readonly quiet: boolean;
}

/** Blocks on their way at once. */
const IN_FLIGHT = 4;
const MAX_BLOCK_BYTES = 16 << 20;

const multipliers: Readonly<Record<string, number>> = {
  b: 512,
  k: 1024,
  m: 1024 ** 2,
  g: 1024 ** 3,
  t: 1024 ** 4,
  w: 4,
};

/** A number with suffixes, as dd takes it: `1m`, `4k`, `2x512`. */
export function parseSize(name: string, text: string): number {
  const parts = text.toLowerCase().split("x");
  const value = parts
    .map((part) => {
      const match = /^(\d+)([bkmgtw]?)$/.exec(part);
      return match === null ? Number.NaN : Number(match[1]) * (multipliers[match[2]!] ?? 1);
    })
    .reduce((left, right) => left * right, 1);
  if (!Number.isSafeInteger(value)) throw new CommandError(`${name}: illegal numeric value`);
  return value;
}

function parseOperands(args: readonly string[]): Operands {
  const values = new Map<string, string>();
  const aliases: Readonly<Record<string, string>> = { iseek: "skip", oseek: "seek" };
  const known = ["if", "of", "bs", "ibs", "obs", "count", "skip", "seek", "conv", "status"];
  for (const arg of args) {
    const at = arg.indexOf("=");
    const written = at < 0 ? arg : arg.slice(0, at);
    const name = aliases[written] ?? written;
    if (at < 0 || !known.includes(name)) throw new CommandError(`unknown operand ${written}`);
    values.set(name, arg.slice(at + 1));
  }
  const size = (name: string, fallback: number): number => {
    const text = values.get(name);
    return text === undefined ? fallback : parseSize(name, text);
  };
  const conversions = values.get("conv")?.split(",") ?? [];
  for (const conversion of conversions)
    if (!["sync", "noerror", "notrunc", "fsync"].includes(conversion))
      throw new CommandError(`unknown conversion ${conversion}`);
  const status = values.get("status");
  if (status !== undefined && !["none", "noxfer", "progress"].includes(status))
    throw new CommandError(`unknown status ${status}`);
  const blockBytes = size("bs", size("ibs", size("obs", 512)));
  if (blockBytes < 1 || blockBytes > MAX_BLOCK_BYTES)
    throw new CommandError(`bs: must be between 1 and ${MAX_BLOCK_BYTES}`);
  return {
    input: values.get("if"),
    output: values.get("of"),
    blockBytes,
    count: size("count", Infinity),
    skip: size("skip", 0),
    seek: size("seek", 0),
    noError: conversions.includes("noerror"),
    sync: conversions.includes("sync"),
    progress: status === "progress",
    quiet: status === "none",
  };
}

async function open(
  { files }: CommandContext,
  path: string,
  blockBytes: number,
  writing: boolean,
): Promise<FileNode> {
  const node = await files.find(path);
  if (node === undefined) throw new CommandError(`${path}: No such file or directory`);
  if (node.kind === "directory") throw new CommandError(`${path}: Is a directory`);
  if (node.kind === "disk" && blockBytes % node.device.blockBytes !== 0)
    throw new CommandError(
      `${path}: Invalid argument (bs must be a multiple of ${node.device.blockBytes})`,
    );
  if (!writing) return node;
  const readOnly = node.kind === "text" || (node.kind === "disk" && node.device.readOnly);
  if (readOnly) throw new CommandError(`${path}: Read-only file system`);
  return node;
}

/** One block on its way from input to output. */
interface Block {
  readonly index: number;
  readonly buffer: GuestBuffer;
}

class Copy {
  readonly #context: CommandContext;
  readonly #operands: Operands;
  readonly #input: FileNode;
  readonly #output: FileNode | undefined;
  full = { read: 0, written: 0 };
  partial = { read: 0, written: 0 };
  bytes = 0;
  /** Blocks that end of input or an error made the last. */
  #end = Infinity;
  #text: Uint8Array | undefined;

  constructor(
    context: CommandContext,
    operands: Operands,
    input: FileNode,
    output: FileNode | undefined,
  ) {
    this.#context = context;
    this.#operands = operands;
    this.#input = input;
    this.#output = output;
    if (input.kind === "disk")
      this.#end = Math.ceil(input.device.sizeBytes / operands.blockBytes) - operands.skip;
    if (input.kind === "character" && input.fill === undefined) this.#end = 0;
    if (input.kind === "text") {
      this.#text = new TextEncoder().encode(input.text);
      this.#end = Math.ceil(this.#text.byteLength / operands.blockBytes) - operands.skip;
    }
    this.#end = Math.max(0, Math.min(this.#end, operands.count));
    // The first block without room on the output is the last: it is read, and ends the copy.
    if (output?.kind === "disk") {
      const room = Math.floor(output.device.sizeBytes / operands.blockBytes) - operands.seek;
      this.#end = Math.min(this.#end, Math.max(0, room) + 1);
    }
  }

  /** Copies with several blocks in flight; rejects with the first error, after the others have ended. */
  async run(): Promise<void> {
    const { blockBytes } = this.#operands;
    const lanes: Promise<void>[] = [];
    // Standard output is a stream: its blocks must come in order.
    const width = this.#output === undefined ? 1 : Math.min(IN_FLIGHT, this.#end);
    let next = 0;
    const buffers: GuestBuffer[] = [];
    try {
      for (let lane = 0; lane < width; lane++) {
        const buffer = this.#context.system.allocateBuffer(blockBytes);
        buffers.push(buffer);
        lanes.push(
          (async () => {
            while (next < this.#end && !this.#context.signal.aborted)
              await this.#block({ index: next++, buffer });
          })(),
        );
      }
      await Promise.all(lanes);
      this.#context.signal.throwIfAborted();
      if (this.#output?.kind === "disk") await this.#flush(this.#output.device);
    } finally {
      this.#end = 0;
      await Promise.allSettled(lanes);
      for (const buffer of buffers) buffer.free();
    }
  }

  async #flush(device: BlockDevice): Promise<void> {
    try {
      await device.flush();
    } catch (error) {
      throw failure(String(this.#operands.output), error);
    }
  }

  async #block(block: Block): Promise<void> {
    try {
      await this.#transfer(block);
    } catch (error) {
      // No further block begins.
      this.#end = Math.min(this.#end, block.index);
      throw error;
    }
  }

  async #transfer(block: Block): Promise<void> {
    const { blockBytes, noError, sync } = this.#operands;
    let length: number;
    try {
      length = await this.#read(block);
    } catch (error) {
      if (!noError) throw failure(this.#operands.input ?? "stdin", error);
      this.#context.warn(`dd: ${failure(this.#operands.input ?? "stdin", error).message}`);
      length = blockBytes;
      block.buffer.bytes.fill(0);
    }
    if (length === 0) return;
    if (length === blockBytes) this.full.read++;
    else this.partial.read++;
    if (sync && length < blockBytes) {
      block.buffer.bytes.fill(0, length);
      length = blockBytes;
    }
    const written = await this.#write(block, length);
    if (written === blockBytes) this.full.written++;
    else if (written > 0) this.partial.written++;
    this.bytes += written;
    if (written < length) throw new CommandError(`${String(this.#operands.output)}: end of device`);
  }

  async #read({ index, buffer }: Block): Promise<number> {
    const { blockBytes, skip } = this.#operands;
    const input = this.#input;
    const position = (index + skip) * blockBytes;
    if (input.kind === "disk") {
      const length = Math.min(blockBytes, input.device.sizeBytes - position);
      await input.device.read(position, buffer.address, length);
      return length;
    }
    if (input.kind === "character") {
      input.fill?.(buffer.bytes);
      // To /dev/null nothing else waits for anything, and an interrupt comes as an event.
      await eventLoopTurn();
      return blockBytes;
    }
    const rest = this.#text?.subarray(position, position + blockBytes) ?? new Uint8Array(0);
    buffer.bytes.set(rest);
    return rest.byteLength;
  }

  async #write({ index, buffer }: Block, length: number): Promise<number> {
    const { blockBytes, seek, output: path } = this.#operands;
    const output = this.#output;
    if (output === undefined) {
      await this.#context.stdout.write(buffer.bytes.subarray(0, length));
      return length;
    }
    if (output.kind !== "disk") return length;
    const position = (index + seek) * blockBytes;
    const room = Math.max(0, Math.min(length, output.device.sizeBytes - position));
    try {
      if (room > 0) await output.device.write(position, buffer.address, room);
    } catch (error) {
      throw failure(String(path), error);
    }
    return room;
  }
}

function failure(path: string, error: unknown): CommandError {
  const text = error instanceof Error ? error.message : String(error);
  return new CommandError(`${path}: ${text}`);
}

export const dd: Command = {
  name: "dd",
  summary: "copy between disks, /dev/zero, /dev/random and /dev/null",
  usage:
    "dd [if=file] [of=file] [bs=size] [count=n] [skip=n] [seek=n] [conv=sync,noerror,notrunc] [status=none|noxfer|progress]",
  async run(context) {
    const operands = parseOperands(context.args);
    const { input, output, blockBytes, quiet } = operands;
    if (input === undefined) throw new UsageError("if= names what is to be copied");
    const from = await open(context, input, blockBytes, false);
    const to = output === undefined ? undefined : await open(context, output, blockBytes, true);
    const copy = new Copy(context, operands, from, to);
    const started = performance.now();
    const report = (): void => {
      const seconds = Math.max((performance.now() - started) / 1000, 1e-6);
      const rate = Math.round(copy.bytes / seconds);
      context.warn(
        `${copy.bytes} bytes transferred in ${seconds.toFixed(6)} secs (${rate} bytes/sec)`,
      );
    };
    const progress =
      operands.progress && context.interactive ? setInterval(report, 1000) : undefined;
    let status = 0;
    try {
      await copy.run();
    } catch (error) {
      if (!(error instanceof CommandError)) throw error;
      context.warn(`dd: ${error.message}`);
      ({ status } = error);
    } finally {
      clearInterval(progress);
      if (!quiet) {
        context.warn(`${copy.full.read}+${copy.partial.read} records in`);
        context.warn(`${copy.full.written}+${copy.partial.written} records out`);
        report();
      }
    }
    return status;
  },
};
