// Takes frames from one TAP and gives them to another, header and all, until it is told to stop.
import { parentPort, workerData } from "node:worker_threads";
import { TAP_EMPTY, TAP_GONE, TapQueue } from "@hyperv-is/platform-node";

const { from, to, memory, at, roomBytes } = workerData;
const source = new TapQueue(from, memory);
const target = new TapQueue(to, memory);
let longestBytes = 0;
let wanting = 0;
let gone = false;
while (!gone && source.wait() !== "stopped") {
  for (;;) {
    const lengthBytes = source.receive(at, roomBytes);
    gone = lengthBytes === TAP_GONE;
    if (gone || lengthBytes === TAP_EMPTY) break;
    longestBytes = Math.max(longestBytes, lengthBytes);
    if (source.receivedHeader.getUint8(0) === 1) wanting++;
    for (let byte = 0; byte < from.vnetHeaderBytes; byte++)
      target.sendHeader.setUint8(byte, source.receivedHeader.getUint8(byte));
    target.send(at, lengthBytes);
  }
}
parentPort?.postMessage({ longestBytes, wanting, gone, ...source.counters, ...target.counters });
