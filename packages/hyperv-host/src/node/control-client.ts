import { once } from "node:events";
import { connect, type Socket } from "node:net";
import {
  JSONRPCClient,
  createJSONRPCErrorResponse,
  type JSONRPCError,
  type JSONRPCResponse,
} from "json-rpc-2.0";
import { ControlError, isControlAnswerCode } from "../control/control-error.js";
import type {
  ControlMethodName,
  ControlParams,
  ControlResult,
} from "../control/control-methods.js";
import { CONTROL_PROTOCOL } from "../control/control-protocol.js";
import { LineSplitter } from "../control/line-splitter.js";

/** How long a machine may take for an answer. */
const TIMEOUT_MS = 5000;

/** Bytes of a machine's line; one with all the disks and violations that there can be has some 100 KiB. */
const LINE_LIMIT_BYTES = 1 << 24;

/** A client of a machine's control socket. */
export class ControlClient implements Disposable {
  readonly path: string;
  /** Resolves when the machine has ended, or `close` was called. */
  readonly closed: Promise<void>;
  readonly #socket: Socket;
  readonly #rpc: JSONRPCClient;
  readonly #timeoutMs: number;
  #program = "";
  /** Why nothing comes any more. */
  #end: ControlError | undefined;

  private constructor(path: string, socket: Socket, timeoutMs: number) {
    this.path = path;
    this.#socket = socket;
    this.#timeoutMs = timeoutMs;
    this.#rpc = new JSONRPCClient((request: unknown) => {
      socket.write(`${JSON.stringify(request)}\n`);
    });
    this.closed = this.#read();
  }

  /**
   * Connects to a machine, and makes sure that both speak the same.
   *
   * Rejects with `ControlError`: `ERR_CONTROL_GONE` if no machine listens at the path, or with what `call`
   * rejects with.
   *
   * @param path - of the socket; see `controlPath`.
   * @param timeoutMs - that each answer may take.
   */
  static async connect(path: string, timeoutMs = TIMEOUT_MS): Promise<ControlClient> {
    const socket = connect(path);
    try {
      await once(socket, "connect");
    } catch (cause) {
      const { code = "", message } = cause as NodeJS.ErrnoException;
      const isGone = ["ENOENT", "ECONNREFUSED"].includes(code);
      throw isGone
        ? new ControlError("ERR_CONTROL_GONE", `${path}: no machine listens there`, { cause })
        : new ControlError("ERR_CONTROL_ADDRESS", message, { cause });
    }
    const client = new ControlClient(path, socket, timeoutMs);
    try {
      client.#program = (await client.call("version", { protocol: CONTROL_PROTOCOL })).program;
      return client;
    } catch (error) {
      client.close();
      throw error;
    }
  }

  /** What the machine runs in, with its version. */
  get program(): string {
    return this.#program;
  }

  /**
   * Calls a method.
   *
   * Rejects with `ControlError`: what the machine answers with, `ERR_CONTROL_GONE` if it has ended,
   * `ERR_CONTROL_SILENT` if it does not answer in time, `ERR_CONTROL_ANSWER` if its answer makes no sense.
   */
  async call<Name extends ControlMethodName>(
    name: Name,
    params: ControlParams<Name>,
  ): Promise<ControlResult<Name>> {
    const ended = this.#end;
    if (ended !== undefined) throw ended;
    try {
      const rpc = this.#rpc.timeout(this.#timeoutMs, (id) =>
        createJSONRPCErrorResponse(id, 0, `${this.path}: no answer for ${this.#timeoutMs} ms`, {
          code: SILENT,
        }),
      );
      return (await rpc.request(name, params)) as ControlResult<Name>;
    } catch (error) {
      throw this.#end ?? controlError(error as JSONRPCError);
    }
  }

  /** Lets the machine go; calls that were not answered reject. Idempotent. */
  close(): void {
    this.#socket.destroy();
  }

  [Symbol.dispose](): void {
    this.close();
  }

  async #read(): Promise<void> {
    const splitter = new LineSplitter(LINE_LIMIT_BYTES);
    try {
      for await (const chunk of this.#socket as AsyncIterable<Buffer>) {
        for (const line of splitter.push(chunk)) this.#receive(line);
        if (splitter.isTooLong) throw noAnswer(this.path, "a line that does not end");
      }
    } catch (error) {
      // A connection that was reset is one that has ended.
      if (error instanceof ControlError) this.#end = error;
    }
    this.#end ??= new ControlError("ERR_CONTROL_GONE", `${this.path}: the machine has ended`);
    this.#rpc.rejectAllPendingRequests(this.#end.message);
  }

  #receive(line: Uint8Array): void {
    let message: JSONRPCResponse | null;
    try {
      message = JSON.parse(new TextDecoder().decode(line)) as JSONRPCResponse | null;
    } catch {
      throw noAnswer(this.path, "what is no JSON");
    }
    if (typeof message !== "object" || message === null) throw noAnswer(this.path, "no object");
    // An error without a request is about the connection, which it ends.
    if (message.id === null && message.error !== undefined) throw controlError(message.error);
    this.#rpc.receive(message);
  }
}

const SILENT = "ERR_CONTROL_SILENT";

function noAnswer(path: string, what: string): ControlError {
  return new ControlError("ERR_CONTROL_ANSWER", `${path}: what listens there says ${what}`);
}

/** What a machine, or the library in its place, says about a request. */
function controlError({ message, data }: JSONRPCError): ControlError {
  const { code } = (data ?? {}) as { readonly code?: unknown };
  const known = code === SILENT || isControlAnswerCode(code) ? code : "ERR_CONTROL_ANSWER";
  return new ControlError(known, message);
}
