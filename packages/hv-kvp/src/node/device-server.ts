import { createServer, type Socket } from "node:net";
import { PrivateSocket } from "@hyperv-is/platform-node";
import type { KvpDevice } from "../device.js";
import { MessageStream } from "./message-stream.js";

/** A device node that is served. */
export interface ServedDevice {
  readonly path: string;
  /** Closes every connection and removes the node. */
  close(): void;
}

/**
 * Serves the driver's device as a unix socket: whoever connects has it open, and each message of the dialect's size
 * is a read or a write. What a real device would refuse with EBUSY or, before the registration, with EINVAL, closes
 * the connection; an answer that nobody waits for is dropped. Only this user may connect.
 *
 * Rejects with a `PlatformError` if there can be no socket, or somebody else listens there.
 */
export async function serveDevice(path: string, device: KvpDevice): Promise<ServedDevice> {
  const connections = new Set<Socket>();
  const server = createServer((socket) => {
    const file = device.open({
      message: (message) => void socket.write(message),
      gone: () => socket.destroy(),
    });
    if (typeof file === "string") {
      socket.destroy();
      return;
    }
    connections.add(socket);
    let isRegistered = false;
    const stream = new MessageStream(device.dialect.messageBytes, (message) => {
      if (file.write(message) === undefined) isRegistered = true;
      else if (!isRegistered) socket.destroy();
    });
    socket.on("data", (bytes) => stream.push(bytes));
    // A daemon that is gone is one that closed, whatever the system calls it.
    socket.on("error", () => undefined);
    socket.on("close", () => {
      connections.delete(socket);
      file.close();
    });
  });
  const claimed = await PrivateSocket.claim(path, server);
  return {
    path,
    close() {
      claimed.release();
      server.close();
      for (const socket of connections) socket.destroy();
    },
  };
}
