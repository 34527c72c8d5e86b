// A daemon that is told to set keys without end: `key-N` to the number of the call, which it prints when it is done.
import { KvpDaemon, noNetwork } from "@hyperv-is/hv-kvp";
import { PoolFiles } from "@hyperv-is/hv-kvp/node";
import { deviceStatus, emitDeviceRequest, linuxDialect } from "@hyperv-is/hv-kvp/protocol";

const [directory = "", first = "0"] = process.argv.slice(2);
const daemon = new KvpDaemon({
  dialect: linuxDialect,
  pools: new PoolFiles(directory),
  facts: { read: () => Promise.reject(new Error("nobody enumerates pool 2")) },
  network: noNetwork,
});
// As Linux's kernel answers it.
await daemon.answer(daemon.registration());
for (let call = Number(first); ; call++) {
  const key = `key-${call % 30}`;
  const value = `${call} ${"x".repeat(call % 1500)}`;
  const request = emitDeviceRequest(linuxDialect, { operation: 1, pool: 0, key, value });
  const answer = await daemon.answer(request);
  if (answer === undefined || deviceStatus(answer) !== 0) process.exit(3);
  process.stdout.write(`${call}\n`);
}
