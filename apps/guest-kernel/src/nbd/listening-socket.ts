import { once } from "node:events";
import type { AddressInfo, Server } from "node:net";
import { PlatformError, PrivateSocket } from "@hyperv-is/platform-node";
import { BootError } from "../boot-error.js";
import type { NbdAddress } from "./export-address.js";

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
    const { message } = error as Error;
    const detail = error instanceof PlatformError ? message : `NBD: ${message}`;
    throw new BootError("ERR_NBD", detail, { cause: error });
  }
}

async function listenAtPath(server: Server, path: string): Promise<ListeningSocket> {
  const socket = await PrivateSocket.claim(path, server);
  return {
    address: { unix: path },
    close() {
      server.close();
      socket.release();
    },
  };
}
