// Fills an image until no space is left, on a file system that is about to be full:
// `node full-disk-writer.mjs FILE FORMAT`. Prints one line of JSON with what was flushed and what failed.
import { Buffer } from "node:buffer";
import { checkImageFile, createImageFile, openImageFile } from "@hyperv-is/vhd/node";

const [path = "", format = ""] = process.argv.slice(2);
const CHUNK = 256 * 1024;
/** @param {number} number */
const chunk = (number) => new Uint8Array(CHUNK).fill(number + 1);

const disk = await createImageFile(path, {
  format: /** @type {import("@hyperv-is/vhd").ImageFormat} */ (format),
  sizeBytes: 64 * 1024 * 1024,
});
let flushed = 0;
let code = "";
let message = "";
try {
  for (let number = 0; number * CHUNK < disk.sizeBytes; number++) {
    disk.write(number * CHUNK, chunk(number), 0, CHUNK);
    disk.flush();
    flushed = number + 1;
  }
} catch (error) {
  ({ code, message } = /** @type {Error & { code: string }} */ (error));
}
try {
  disk.close();
} catch {
  // The error has been told.
}

const findings = await checkImageFile(path);
const again = await openImageFile(path, { readOnly: true });
let intact = 0;
const bytes = new Uint8Array(CHUNK);
for (; intact < flushed; intact++) {
  again.read(intact * CHUNK, bytes, 0, CHUNK);
  if (Buffer.compare(bytes, chunk(intact)) !== 0) break;
}
again.close();
const errors = findings.filter(({ severity }) => severity === "error");
console.log(JSON.stringify({ code, message, flushed, intact, errors }));
