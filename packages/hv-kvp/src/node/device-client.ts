import { closeSync, openSync, read, statSync, write } from "node:fs";
import { connect } from "node:net";
import { promisify } from "node:util";
import type { KvpDaemon } from "../daemon.js";
import { KvpError } from "../errors.js";
import { MessageStream } from "./message-stream.js";

const readAt = promisify(read);
const writeAt = promisify(write);

/**
 * Has a daemon serve the device at a path, a character device or a unix socket of `serveDevice`, until the driver
 * goes away; resolves then.
 *
 * Rejects with `ERR_KVP_DEVICE` if there is none, and with `ERR_KVP_DAEMON` if another daemon serves it.
 */
export async function serveDaemon(
  path: string,
  daemon: KvpDaemon,
  signal?: AbortSignal,
): Promise<void> {
  if (findDevice(path) === "socket") await serveSocket(path, daemon, signal);
  else await serveNode(path, daemon);
}

/** What the device at a path is. Throws `ERR_KVP_DEVICE` if there is none. */
export function findDevice(path: string): "socket" | "node" {
  const found = statSync(path, { throwIfNoEntry: false });
  if (found === undefined)
    throw new KvpError(
      "ERR_KVP_DEVICE",
      `${path}: there is no such device. Is this a guest of Hyper-V, with the driver loaded?`,
    );
  if (found.isSocket()) return "socket";
  if (found.isCharacterDevice()) return "node";
  throw new KvpError("ERR_KVP_DEVICE", `${path}: is no device`);
}

function serveSocket(path: string, daemon: KvpDaemon, signal?: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    const socket = connect(path);
    let isServing = false;
    const stop = (): void => void socket.destroy();
    signal?.addEventListener("abort", stop);
    const stream = new MessageStream(daemon.dialect.messageBytes, (message) => {
      isServing = true;
      void daemon.answer(message).then((answer) => {
        if (answer !== undefined) socket.write(answer);
      });
    });
    socket.on("connect", () => socket.write(daemon.registration()));
    socket.on("data", (bytes) => stream.push(bytes));
    socket.on("error", (error: NodeJS.ErrnoException) => {
      if (!["ECONNREFUSED", "ENOENT", "EACCES"].includes(error.code ?? "")) return;
      reject(new KvpError("ERR_KVP_DEVICE", `${path}: ${error.message}`, { cause: error }));
    });
    socket.on("close", () => {
      signal?.removeEventListener("abort", stop);
      if (isServing || signal?.aborted === true) resolve();
      else reject(anotherDaemon(path));
    });
  });
}

async function serveNode(path: string, daemon: KvpDaemon): Promise<void> {
  const { dialect } = daemon;
  const descriptor = openNode(path);
  // FreeBSD's device is read and written at offset 0, Linux's knows no offsets.
  const position = dialect.name === "freebsd" ? 0 : null;
  const put = async (message: Uint8Array): Promise<void> => {
    await writeAt(descriptor, message, 0, message.byteLength, position);
  };
  try {
    await put(daemon.registration());
    const message = new Uint8Array(dialect.messageBytes);
    for (;;) {
      const { bytesRead } = await readAt(descriptor, message, 0, message.byteLength, position);
      if (bytesRead === 0) return;
      if (bytesRead !== message.byteLength) continue;
      const answer = await daemon.answer(message.slice());
      // Linux refuses an answer that comes too late.
      if (answer !== undefined) await put(answer).catch(unless("EINVAL"));
    }
  } catch (error) {
    // The driver is gone.
    unless("EBADF", "ENXIO", "EIO", "ENODEV")(error);
  } finally {
    closeSync(descriptor);
  }
}

function openNode(path: string): number {
  try {
    return openSync(path, "r+");
  } catch (error) {
    // An old FreeBSD has the sign of EBUSY wrong, for which Node knows no name.
    const { code, errno, message } = error as NodeJS.ErrnoException;
    if (code === "EBUSY" || Math.abs(errno ?? 0) === 16) throw anotherDaemon(path);
    throw new KvpError("ERR_KVP_DEVICE", `${path}: ${message}`, { cause: error });
  }
}

function unless(...codes: readonly string[]): (error: unknown) => void {
  return (error) => {
    if (!codes.includes((error as NodeJS.ErrnoException).code ?? "")) throw error;
  };
}

function anotherDaemon(path: string): KvpError {
  return new KvpError(
    "ERR_KVP_DAEMON",
    `${path}: another daemon serves it. Stop that one first: 'service hv_kvpd stop', or on Linux 'systemctl stop hv-kvp-daemon'`,
  );
}
