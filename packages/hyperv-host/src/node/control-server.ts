import { createServer, type Server, type Socket } from "node:net";
import { dirname } from "node:path";
import { pipeline } from "node:stream/promises";
import { setImmediate as turn } from "node:timers/promises";
import { PlatformError, PrivateSocket } from "@hyperv-is/platform-node";
import { ControlDispatcher, refusal } from "../control/control-dispatcher.js";
import { ControlError } from "../control/control-error.js";
import type { ControlledMachine } from "../control/control-methods.js";
import { LineSplitter } from "../control/line-splitter.js";
import {
  controlDirectory,
  controlPath,
  machineName,
  makeControlDirectory,
} from "./control-address.js";

/** Clients that a machine has at most at a time. */
const CLIENT_LIMIT = 32;

/** Bytes of a client's line. */
const LINE_LIMIT_BYTES = 1 << 16;

/** What a machine says of itself when its control socket is made. */
export type MachineDescription = Omit<ControlledMachine, "name" | "processId">;

/**
 * The control socket of a machine, on the thread of its control plane. Clients may say and do what they like:
 * each has one line and one answer in memory, and one request is carried out in a turn of the event loop.
 * It keeps no process alive.
 */
export class ControlServer {
  /** Of the socket. */
  readonly path: string;
  readonly #server: Server;
  readonly #socket: PrivateSocket;
  readonly #clients: ReadonlySet<Socket>;

  private constructor(server: Server, socket: PrivateSocket, clients: ReadonlySet<Socket>) {
    this.path = socket.path;
    this.#server = server;
    this.#socket = socket;
    this.#clients = clients;
  }

  /**
   * Makes the control socket of a machine that runs.
   *
   * @param address - name of the machine, or path of its socket; see `controlPath`.
   * Rejects with `ControlError`: `ERR_CONTROL_ADDRESS`, `ERR_CONTROL_IN_USE`.
   */
  static async listen(address: string, machine: MachineDescription): Promise<ControlServer> {
    const path = controlPath(address);
    if (dirname(path) === controlDirectory()) makeControlDirectory(controlDirectory());
    const dispatcher = new ControlDispatcher({
      ...machine,
      name: machineName(path),
      processId: process.pid,
    });
    const clients = new Set<Socket>();
    const server = createServer({ allowHalfOpen: true }, (client) => {
      client.unref();
      if (clients.size >= CLIENT_LIMIT) {
        refuse(client);
        return;
      }
      clients.add(client);
      client.on("close", () => clients.delete(client));
      serve(client, dispatcher);
    });
    server.unref();
    const socket = await claim(path, server);
    // A connection that cannot be accepted (no file descriptor is left) is the client's loss.
    server.on("error", () => undefined);
    return new ControlServer(server, socket, clients);
  }

  /** Removes the socket and lets all clients go; idempotent. */
  close(): void {
    this.#socket.release();
    this.#server.close();
    for (const client of this.#clients) client.destroy();
  }
}

async function claim(path: string, server: Server): Promise<PrivateSocket> {
  try {
    return await PrivateSocket.claim(path, server);
  } catch (cause) {
    if (!(cause instanceof PlatformError)) throw cause;
    const isInUse = cause.code === "ERR_SOCKET_IN_USE";
    throw isInUse
      ? new ControlError(
          "ERR_CONTROL_IN_USE",
          `${cause.message}: give the machine another name or path`,
          { cause },
        )
      : new ControlError("ERR_CONTROL_ADDRESS", cause.message, { cause });
  }
}

function refuse(client: Socket): void {
  client.on("error", () => undefined);
  client.end(
    `${refusal("ERR_CONTROL_CLIENTS", `the machine has ${CLIENT_LIMIT} clients already`)}\n`,
  );
  client.destroySoon();
}

/** A client that goes away, or that reads nothing, is nobody's concern. */
function serve(client: Socket, dispatcher: ControlDispatcher): void {
  pipeline(client, (chunks: AsyncIterable<Buffer>) => answers(chunks, dispatcher), client).catch(
    () => undefined,
  );
}

async function* answers(
  chunks: AsyncIterable<Buffer>,
  dispatcher: ControlDispatcher,
): AsyncGenerator<string> {
  const splitter = new LineSplitter(LINE_LIMIT_BYTES);
  for await (const chunk of chunks) {
    for (const line of splitter.push(chunk)) {
      const answer = await dispatcher.answer(line);
      if (answer !== undefined) yield `${answer}\n`;
      await turn();
    }
    if (splitter.isTooLong) {
      yield `${refusal("ERR_CONTROL_REQUEST", `a line has at most ${LINE_LIMIT_BYTES} bytes`)}\n`;
      return;
    }
  }
}
