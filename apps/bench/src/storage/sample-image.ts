import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createImageFile } from "@hyperv-is/vhd/node";

const PIECE_BYTES = 1 << 20;

/**
 * Makes a dynamic VHDX full of data, in a temporary directory that is removed when the process ends.
 * @param sizeBytes - A multiple of 1 MiB.
 * @returns Its path.
 */
export async function makeSampleImage(
  sizeBytes: number,
  progress: (doneBytes: number) => void,
): Promise<string> {
  const path = temporaryFile("sample.vhdx");
  const disk = await createImageFile(path, { format: "vhdx-dynamic", sizeBytes });
  try {
    // Every word says where it lies, so that data from elsewhere shows in a sum.
    const words = new Uint32Array(PIECE_BYTES / 4);
    const bytes = new Uint8Array(words.buffer);
    for (let position = 0; position < sizeBytes; position += PIECE_BYTES) {
      for (let word = 0; word < words.length; word++)
        words[word] = Math.imul(position / 4 + word, 0x9e37_79b1);
      disk.write(position, bytes, 0, PIECE_BYTES);
      progress(position + PIECE_BYTES);
    }
  } finally {
    disk.close();
  }
  return path;
}

/**
 * Makes a fixed VHDX without data, which takes no room, as above.
 * @param sizeBytes - A multiple of 1 MiB.
 */
export async function makeSparseImage(sizeBytes: number): Promise<string> {
  const path = temporaryFile("sparse.vhdx");
  (await createImageFile(path, { format: "vhdx-fixed", sizeBytes })).close();
  return path;
}

function temporaryFile(name: string): string {
  const directory = mkdtempSync(join(tmpdir(), "hyperv-is-bench-"));
  process.once("exit", () => rmSync(directory, { recursive: true, force: true }));
  return join(directory, name);
}
