// The archive that a Linux kernel unpacks as its first root file system: cpio in the "newc" format
// (Linux Documentation/driver-api/early-userspace/buffer-format.rst).
import { Buffer } from "node:buffer";

/**
 * One entry: a directory when it has neither content, link nor device.
 *
 * @typedef {{
 *   readonly path: string,
 *   readonly content?: Uint8Array,
 *   readonly link?: string,
 *   readonly device?: readonly [major: number, minor: number],
 *   readonly executable?: boolean,
 * }} CpioEntry
 */

const fileType = { directory: 0o040000, regular: 0o100000, link: 0o120000, character: 0o020000 };

/** @param {CpioEntry} entry */
function mode(entry) {
  if (entry.content !== undefined) return fileType.regular | (entry.executable ? 0o755 : 0o644);
  if (entry.link !== undefined) return fileType.link | 0o777;
  if (entry.device !== undefined) return fileType.character | 0o600;
  return fileType.directory | 0o755;
}

/**
 * The archive's bytes. Owner is root and every time is zero: the same entries make the same bytes.
 *
 * Directories are made on the way: an entry needs no entry for the folder that it is in.
 *
 * @param {readonly CpioEntry[]} entries
 * @returns {Buffer}
 */
export function cpio(entries) {
  /** @type {Map<string, CpioEntry>} */
  const byPath = new Map();
  for (const entry of entries) {
    const folders = entry.path.split("/").slice(0, -1);
    for (let depth = 1; depth <= folders.length; depth++) {
      const path = folders.slice(0, depth).join("/");
      if (!byPath.has(path)) byPath.set(path, { path });
    }
    byPath.set(entry.path, entry);
  }
  const pieces = [...byPath.values()].flatMap((entry, index) => record(entry, index + 1));
  return Buffer.concat([...pieces, ...record({ path: "TRAILER!!!" }, 0)]);
}

/**
 * @param {CpioEntry} entry
 * @param {number} inode - different for each entry, or the kernel takes two for hard links; 0 for the trailer
 * @returns {Buffer[]}
 */
function record(entry, inode) {
  const name = Buffer.from(`${entry.path}\0`);
  const content = Buffer.from(entry.content ?? entry.link ?? "");
  const [major, minor] = entry.device ?? [0, 0];
  const fields = [
    inode,
    inode === 0 ? 0 : mode(entry),
    0, // user
    0, // group
    1, // links
    0, // time of modification
    content.length,
    0, // device that holds it
    0,
    major,
    minor,
    name.length,
    0, // checksum: none in this format
  ];
  const header = `070701${fields.map((field) => field.toString(16).padStart(8, "0")).join("")}`;
  return [padded(Buffer.concat([Buffer.from(header), name])), padded(content)];
}

/** @param {Buffer} bytes @returns {Buffer} filled up to a multiple of four */
function padded(bytes) {
  return Buffer.concat([bytes, Buffer.alloc(-bytes.length & 3)]);
}
