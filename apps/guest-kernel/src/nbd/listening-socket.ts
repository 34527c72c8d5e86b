import { once } from "node:events";
import { chmodSync, linkSync, lstatSync, mkdtempSync, rmSync, type Stats } from "node:fs";
import { connect, type AddressInfo, type Server } from "node:net";
import { dirname, join } from "node:path";
import { BootError } from "../boot-error.js";
import type { NbdAddress } from "./export-address.js";

/** What a path of a socket may have in `sockaddr_un`, its end included. */
const SOCKET_PATH_BYTES = process.platform === "linux" ? 108 : 104;

/** A server that listens, and what has to be done when it no longer does. */
export interface ListeningSocket {
  /** As asked for; with the port that was chosen. */
  readonly address: NbdAddress;
  /** Takes no more connections, and the socket's file with it. Those that there are go on. */
  close(): void;
}

/** Has a server listen. Rejects with `BootError` `ERR_NBD` when that cannot be. */
export async function listenAt(server: Server, address: NbdAddress): Promise<ListeningSocket> {
  try {
    if ("unix" in address) return await listenAtPath(server, address.unix);
    const { host = "127.0.0.1", port } = address;
    server.listen({ host, port });
    await once(server, "listening");
    const chosen = (server.address() as AddressInfo).port;
    return { address: { host, port: chosen }, close: () => server.close() };
  } catch (error) {
    if (error instanceof BootError) throw error;
    throw new BootError("ERR_NBD", `NBD: ${(error as Error).message}`, { cause: error });
  }
}

/**
 * Listens at a path that only this user may connect to. What a program that is gone has left there is replaced;
 * anything else is not.
 *
 * The socket is made in a directory of its own, so that nobody connects before its mode is set, and then linked
 * to the path, which fails if somebody else was faster.
 */
async function listenAtPath(server: Server, path: string): Promise<ListeningSocket> {
  await removeStale(path);
  const directory = mkdtempSync(join(dirname(path), ".n"));
  try {
    const made = join(directory, "s");
    if (Math.max(Buffer.byteLength(made), Buffer.byteLength(path)) >= SOCKET_PATH_BYTES)
      throw new BootError("ERR_NBD", `${path}: too long for a socket's path`);
    server.listen(made);
    await once(server, "listening");
    chmodSync(made, 0o600);
    linkSync(made, path);
  } catch (error) {
    server.close();
    throw error;
  } finally {
    rmSync(directory, { recursive: true, force: true });
  }
  const ours = lstatSync(path);
  return {
    address: { unix: path },
    close() {
      server.close();
      if (isSame(fileAt(path), ours)) rmSync(path, { force: true });
    },
  };
}

async function removeStale(path: string): Promise<void> {
  const found = fileAt(path);
  if (found === undefined) return;
  if (!found.isSocket()) throw new BootError("ERR_NBD", `${path}: is there, and is no socket`);
  const client = connect(path);
  try {
    await once(client, "connect");
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "ECONNREFUSED") throw error;
    if (isSame(fileAt(path), found)) rmSync(path);
    return;
  } finally {
    client.destroy();
  }
  throw new BootError("ERR_NBD", `${path}: another program serves there`);
}

function fileAt(path: string): Stats | undefined {
  return lstatSync(path, { throwIfNoEntry: false });
}

function isSame(left: Stats | undefined, right: Stats): boolean {
  return left?.ino === right.ino && left.dev === right.dev;
}
