// Opens an image for writing, says so, and keeps it: `node lock-holder.mjs FILE [exit]`.
// With `exit` nothing keeps the process alive but the lock, which must not.
import { isMainThread, parentPort, workerData } from "node:worker_threads";
import { openImageFile } from "@hyperv-is/vhd/node";

const [path = "", mode] = isMainThread ? process.argv.slice(2) : [String(workerData)];
await openImageFile(path);
if (parentPort !== null) {
  parentPort.on("message", () => undefined);
  parentPort.postMessage("open");
} else {
  console.log("open");
  if (mode !== "exit") process.stdin.resume();
}
