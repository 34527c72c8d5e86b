// Loads koffi after a look at a socket. Prints how many CPUs it tells of.
import { once } from "node:events";
import { lstatSync } from "node:fs";
import { createServer } from "node:net";
import { allowedCpus } from "@hyperv-is/platform-node";

const path = /** @type {string} */ (process.argv[2]);
const server = createServer().listen(path);
await once(server, "listening");
if (!lstatSync(path).isSocket()) throw new Error("no socket");
console.log(allowedCpus().length);
server.close();
