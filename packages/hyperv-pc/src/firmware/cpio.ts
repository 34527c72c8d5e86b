/** Fields of a header of the "new ASCII" format, each as eight hexadecimal digits. */
const FIELDS = [
  "inode",
  "mode",
  "uid",
  "gid",
  "links",
  "modified",
  "size",
  "deviceMajor",
  "deviceMinor",
  "nodeMajor",
  "nodeMinor",
  "nameSize",
  "check",
] as const;

const MAGIC = "070701";
const REGULAR_FILE = 0o100644;
const DIRECTORY = 0o040755;
const TRAILER = "TRAILER!!!";

/**
 * An uncompressed cpio archive with the given files and the directories above them, as Linux reads it in
 * front of its initial file system.
 *
 * @param files - paths without a leading slash, and contents.
 */
export function cpioArchive(
  files: readonly { readonly path: string; readonly bytes: Uint8Array }[],
): Uint8Array {
  const parts: Uint8Array[] = [];
  const made = new Set<string>();
  let inode = 1;
  const add = (path: string, mode: number, bytes: Uint8Array): void => {
    const name = new TextEncoder().encode(`${path}\0`);
    const values: Partial<Record<(typeof FIELDS)[number], number>> = {
      inode: path === TRAILER ? 0 : inode++,
      mode,
      links: 1,
      size: bytes.byteLength,
      nameSize: name.byteLength,
    };
    const header = MAGIC + FIELDS.map((field) => hex(values[field] ?? 0)).join("");
    parts.push(padded([new TextEncoder().encode(header), name]), padded([bytes]));
  };
  for (const { path, bytes } of files) {
    const names = path.split("/");
    for (let depth = 1; depth < names.length; depth++) {
      const directory = names.slice(0, depth).join("/");
      if (made.has(directory)) continue;
      made.add(directory);
      add(directory, DIRECTORY, new Uint8Array(0));
    }
    add(path, REGULAR_FILE, bytes);
  }
  add(TRAILER, 0, new Uint8Array(0));
  return padded(parts);
}

function hex(value: number): string {
  return value.toString(16).padStart(8, "0");
}

/** The pieces one after another, filled up to a multiple of four bytes. */
function padded(pieces: readonly Uint8Array[]): Uint8Array {
  const length = pieces.reduce((sum, { byteLength }) => sum + byteLength, 0);
  const whole = new Uint8Array((length + 3) & ~3);
  let at = 0;
  for (const piece of pieces) {
    whole.set(piece, at);
    at += piece.byteLength;
  }
  return whole;
}
