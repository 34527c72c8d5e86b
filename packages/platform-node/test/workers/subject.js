// A worker that does what it is told, good or bad.
import { openSync, readFileSync, readSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { setImmediate } from "node:timers";
import { PlatformError, runWorker } from "@hyperv-is/platform-node";

/** @import { PumpKind } from "@hyperv-is/platform-node" */

/** @typedef {{ kind: PumpKind, failAt?: "begin" | "main" | "drain" }} SubjectData */

await runWorker(
  (/** @type {SubjectData} */ { kind }) => kind,
  (context) => {
    const { data, starter, timers } = context;
    if (data.failAt === "begin") throw new Error("at begin");
    /** @param {number} sequence @param {number} left */
    const count = (sequence, left) => {
      starter.send(sequence);
      if (left > 0) void Promise.resolve().then(() => count(sequence + 1, left - 1));
    };
    let fail = data.failAt === "drain";
    return {
      drain() {
        if (fail) throw new PlatformError("ERR_BAD_MODULE", "at drain");
        return false;
      },
      ...(data.failAt === "main" && {
        async main() {
          await new Promise(setImmediate);
          throw new Error("at main");
        },
      }),
      rung: (causes) => starter.send({ causes }),
      message(message) {
        const { command, argument } = /** @type {{ command: string, argument: unknown }} */ (
          message
        );
        switch (command) {
          case "echo":
            return starter.send(argument);
          case "status":
            return starter.send(readFileSync("/proc/thread-self/status", "utf8"));
          case "timers":
            for (const delayMs of /** @type {number[]} */ (argument))
              timers.after(delayMs, () => starter.send(delayMs));
            return;
          case "read file":
            return void context
              .during(readFile(String(argument), "utf8"))
              .then((text) => starter.send(text));
          case "microtasks":
            return count(0, Number(argument));
          case "throw":
            fail = true;
            return;
          case "reject":
            return void Promise.reject(new Error("nobody handles this"));
          case "loop":
            starter.send("looping");
            for (;;);
          case "system call": {
            const fifo = openSync(String(argument), "r+");
            starter.send("reading");
            readSync(fifo, new Uint8Array(1));
            return;
          }
          case "use memory": {
            const kept = [];
            for (;;) kept.push(new Array(1 << 16).fill(kept.length).map((value) => ({ value })));
          }
        }
      },
      stopped: () => starter.send("stopped"),
    };
  },
);
