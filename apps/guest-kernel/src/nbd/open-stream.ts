import type { Socket } from "node:net";
import { FixedMemory, nativeSockets, StreamSocket, type Vcpu } from "@hyperv-is/platform-node";
import type { ByteStream, StreamPump, StreamUser } from "./byte-stream.js";
import { NodeStream } from "./node-stream.js";
import { PumpedStream } from "./pumped-stream.js";

/** What a processor has for such streams; undefined where they cannot be had, or are switched off. */
export function streamPump(
  vcpu: Pick<Vcpu, "memory" | Exclude<keyof StreamPump, "memory">>,
): StreamPump | undefined {
  if (!nativeSockets()) return undefined;
  const { drive, watch, watchFor, doorbell } = vcpu;
  return { drive, watch, watchFor, doorbell, memory: new FixedMemory(vcpu.memory.bytes) };
}

/**
 * A stream over a connection that was accepted and is not read yet.
 * @param pump - Reads and writes it past Node, if there is one.
 */
export function openStream(
  socket: Socket,
  user: StreamUser,
  pump: StreamPump | undefined,
): ByteStream {
  socket.setNoDelay(true);
  const fd = pump && StreamSocket.fdOf(socket);
  return fd === undefined
    ? new NodeStream(socket, user)
    : new PumpedStream(socket, fd, user, pump!);
}
