import { once } from "node:events";
import { connect, type Socket } from "node:net";
import { createInterface } from "node:readline";
import type { HostStats } from "../src/index.js";
import { IntegrationServices, StorvspController, carryOutRequest } from "../src/index.js";
import type { ControlledMachine } from "../src/control/index.js";
import type { MachineDescription } from "../src/node/control.js";
import { Machine } from "./scenario-machine.js";

const INSTANCE = "5c51c000-0000-4000-8000-000000000000";

/** A machine with a scripted guest, as its control socket sees it. */
export function describeMachine(guest: Machine = new Machine()): MachineDescription {
  const controller = new StorvspController();
  const components = new IntegrationServices({ timers: guest.timers, realTime: () => 0n });
  return {
    program: "test 1.2.3",
    processorCount: 1,
    memoryBytes: guest.memory.sizeBytes,
    clock: guest.timers,
    startMs: 0,
    server: guest.partition.server,
    stats: (): HostStats => ({
      ...guest.partition.stats(),
      controllers: [controller.stats(INSTANCE)],
      integration: components.stats,
    }),
    request: (request) =>
      new Promise((resolve, reject) =>
        carryOutRequest(components, request, (error, result) =>
          error === undefined ? resolve(result) : reject(error),
        ),
      ),
  };
}

/** The same with a name. */
export function namedMachine(guest?: Machine): ControlledMachine {
  return { ...describeMachine(guest), name: "web", processId: 42 };
}

/** A client that says what it likes. */
export class RawClient {
  readonly socket: Socket;
  /** Resolves when the machine has let it go. */
  readonly closed: Promise<void>;
  readonly #lines: AsyncIterator<string>;

  private constructor(socket: Socket) {
    this.socket = socket;
    socket.on("error", () => undefined);
    this.closed = new Promise((resolve) => socket.once("close", () => resolve()));
    this.#lines = createInterface({ input: socket })[Symbol.asyncIterator]();
  }

  static async connect(path: string): Promise<RawClient> {
    const socket = connect(path);
    await once(socket, "connect");
    return new RawClient(socket);
  }

  send(text: string | Uint8Array): void {
    this.socket.write(text);
  }

  request(id: number, method: string, params?: unknown): void {
    this.send(`${JSON.stringify({ jsonrpc: "2.0", id, method, params })}\n`);
  }

  /** The next line from the machine; undefined when there will be none. */
  async line(): Promise<string | undefined> {
    const { done, value } = (await this.#lines.next()) as IteratorResult<string, undefined>;
    return done === true ? undefined : value;
  }

  async answer(): Promise<Record<string, unknown>> {
    const line = await this.line();
    if (line === undefined) throw new Error("the machine has let the client go");
    return JSON.parse(line) as Record<string, unknown>;
  }
}
