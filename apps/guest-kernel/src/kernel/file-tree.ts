import { randomFillSync } from "node:crypto";
import { setImmediate as eventLoopTurn } from "node:timers/promises";
import type { BlockDevice, GuestBuffer } from "./block-device.js";
import type { GuestSystem } from "./guest-system.js";
import { partitionDevice, readPartitionTable } from "./partitions.js";

/** What a path names. */
export type FileNode =
  | { readonly kind: "directory"; readonly names: readonly string[] }
  | { readonly kind: "text"; readonly text: string }
  | { readonly kind: "disk"; readonly device: BlockDevice }
  /** A character device without end: `fill` makes its bytes, undefined reads as end of file. */
  | { readonly kind: "character"; readonly fill: ((target: Uint8Array) => void) | undefined };

/** Bytes of one transfer of `cat` and `sha256`. */
const CHUNK_BYTES = 1 << 20;

const characterDevices: Readonly<Record<string, FileNode>> = {
  null: { kind: "character", fill: undefined },
  zero: { kind: "character", fill: (target) => target.fill(0) },
  random: { kind: "character", fill: (target) => void randomFillSync(target) },
  urandom: { kind: "character", fill: (target) => void randomFillSync(target) },
};

/** The guest's files: `/dev`, and what the running system can tell as text. All of it is read only but the disks. */
export class FileTree {
  readonly #system: GuestSystem;
  /** Names of the partitions that were found last. */
  #partitions: readonly BlockDevice[] = [];

  constructor(system: GuestSystem) {
    this.#system = system;
  }

  /** Looks a path up; undefined when there is no such file. Partition tables are read anew. */
  async find(path: string): Promise<FileNode | undefined> {
    const parts = path.split("/").filter((part) => part !== "" && part !== ".");
    const [top, ...rest] = parts;
    if (top === "dev") return this.#device(rest);
    const texts = this.#texts();
    const whole = `/${parts.join("/")}`;
    const text = texts.get(whole);
    if (text !== undefined) return { kind: "text", text };
    const prefix = whole === "/" ? "/" : `${whole}/`;
    const names = new Set(
      [...texts.keys(), "/dev/"]
        .filter((name) => name.startsWith(prefix))
        .map((name) => name.slice(prefix.length).split("/")[0]!),
    );
    return names.size === 0 ? undefined : { kind: "directory", names: [...names].sort() };
  }

  /** The disk or partition that a path or a bare name (`da0`) means. */
  async disk(name: string): Promise<BlockDevice | undefined> {
    const node = await this.#device([name.replace(/^\/dev\//, "")]);
    return node?.kind === "disk" ? node.device : undefined;
  }

  /** Paths that begin with `prefix`. */
  complete(prefix: string): string[] {
    return [
      ...this.#texts().keys(),
      ...Object.keys(characterDevices).map((name) => `/dev/${name}`),
      ...this.#system.disks.map(({ name }) => `/dev/${name}`),
      ...this.#partitions.map(({ name }) => `/dev/${name}`),
    ].filter((path) => path.startsWith(prefix));
  }

  /**
   * The bytes of a file, in chunks that are valid until the next one is asked for.
   * Two transfers are in flight for a disk: one is read while the other is used.
   */
  async *bytes(node: FileNode, signal: AbortSignal): AsyncIterable<Uint8Array> {
    if (node.kind === "text") yield new TextEncoder().encode(node.text);
    else if (node.kind === "disk") yield* this.#diskBytes(node.device, signal);
    else if (node.kind === "character" && node.fill !== undefined) {
      const chunk = new Uint8Array(CHUNK_BYTES);
      while (!signal.aborted) {
        node.fill(chunk);
        yield chunk;
        // Nothing else here waits for anything, and an interrupt comes as an event.
        await eventLoopTurn();
      }
    }
  }

  async *#diskBytes(device: BlockDevice, signal: AbortSignal): AsyncIterable<Uint8Array> {
    const buffers: GuestBuffer[] = [];
    const pending: Promise<void>[] = [];
    try {
      for (let index = 0; index < 2; index++)
        buffers.push(this.#system.allocateBuffer(CHUNK_BYTES));
      const chunks = Math.ceil(device.sizeBytes / CHUNK_BYTES);
      const length = (chunk: number): number =>
        Math.min(CHUNK_BYTES, device.sizeBytes - chunk * CHUNK_BYTES);
      const read = (chunk: number): void => {
        const transfer =
          chunk < chunks
            ? device.read(chunk * CHUNK_BYTES, buffers[chunk % 2]!.address, length(chunk))
            : Promise.resolve();
        // Whoever takes the chunk gets the error; until then it is nobody's.
        transfer.catch(() => undefined);
        pending[chunk % 2] = transfer;
      };
      read(0);
      for (let chunk = 0; chunk < chunks; chunk++) {
        signal.throwIfAborted();
        await pending[chunk % 2];
        read(chunk + 1);
        yield buffers[chunk % 2]!.bytes.subarray(0, length(chunk));
      }
    } finally {
      await Promise.allSettled(pending);
      for (const buffer of buffers) buffer.free();
    }
  }

  async #device(rest: readonly string[]): Promise<FileNode | undefined> {
    const disks = this.#system.disks.map(({ device }) => device);
    if (rest.length > 1) return undefined;
    const [name] = rest;
    if (name !== undefined && Object.hasOwn(characterDevices, name)) return characterDevices[name];
    const whole = disks.find((device) => device.name === name);
    if (whole !== undefined) return { kind: "disk", device: whole };
    const found: BlockDevice[] = [];
    for (const disk of disks) {
      if (name !== undefined && !name.startsWith(disk.name)) continue;
      const table = await readPartitionTable(disk, (bytes) => this.#system.allocateBuffer(bytes));
      if (table === undefined) continue;
      found.push(...table.partitions.map((entry) => partitionDevice(disk, table.scheme, entry)));
    }
    this.#partitions = found;
    if (name === undefined) {
      const names = [...Object.keys(characterDevices), ...disks.map((disk) => disk.name)];
      return {
        kind: "directory",
        names: [...names, ...found.map((device) => device.name)].sort(),
      };
    }
    const device = found.find((candidate) => candidate.name === name);
    return device === undefined ? undefined : { kind: "disk", device };
  }

  #texts(): ReadonlyMap<string, string> {
    const { dmesg, identity, network } = this.#system;
    return new Map([
      ["/etc/hostname", `${identity.hostName}\n`],
      ["/etc/os-release", `NAME=${identity.type}\nVERSION="${identity.release}"\n`],
      ["/etc/resolv.conf", network.resolverConfiguration],
      ["/var/run/dmesg.boot", dmesg.lines.map((line) => `${line}\n`).join("")],
    ]);
  }
}
