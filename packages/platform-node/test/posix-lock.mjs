// Locks a file as stock daemons do: `node posix-lock.mjs FILE`. Says "locked" or "busy", and goes when standard input ends.
import { openSync } from "node:fs";
import { createRequire } from "node:module";

const koffi = createRequire(import.meta.url)("koffi");
const F_SETLK = 6;
const F_WRLCK = 1;
const fcntl = koffi.load("libc.so.6").func("int fcntl(int fd, int command, void *argument)");
const flock = new Uint8Array(32);
flock[0] = F_WRLCK;
const isLocked = fcntl(openSync(process.argv[2] ?? "", "r+"), F_SETLK, flock) === 0;
process.stdout.write(isLocked ? "locked\n" : "busy\n");
process.stdin.resume();
