import type { MessageLink } from "./message-link.js";

/** What one end of a line lets the other call, by name: each takes plain data and returns plain data, or a promise of it. */
export type Procedures<Set> = { readonly [Name in keyof Set]: (argument: never) => unknown };

type CallMessage =
  | {
      readonly kind: "call";
      readonly id: number;
      readonly name: string;
      readonly argument: unknown;
    }
  | { readonly kind: "returned"; readonly id: number; readonly value: unknown }
  | ({ readonly kind: "failed"; readonly id: number } & PlainError);

/** What of an error crosses a line. */
interface PlainError {
  readonly name: string;
  readonly message: string;
  readonly code: unknown;
}

/** What a procedure at the other end of a line threw: its name, message and code. */
export class RemoteError extends Error {
  readonly code: unknown;

  constructor({ name, message, code }: PlainError) {
    super(message);
    this.name = name;
    this.code = code;
  }
}

interface PendingCall {
  readonly resolve: (value: unknown) => void;
  readonly reject: (reason: Error) => void;
}

/**
 * Calls between two CPUs, both ways, over their line. A procedure runs where it is called, in the order of the
 * calls; its answer comes whenever it is ready.
 *
 * A call has no time-out: whoever watches the other end closes the line when that is gone.
 */
export class CallLink<Ours extends Procedures<Ours>, Theirs extends Procedures<Theirs>> {
  readonly #link: Pick<MessageLink, "send">;
  readonly #ours: Ours;
  readonly #pending = new Map<number, PendingCall>();
  #nextId = 1;
  #closed: Error | undefined;

  /** @param ours - What the other end may call. */
  constructor(link: Pick<MessageLink, "send">, ours: Ours) {
    this.#link = link;
    this.#ours = ours;
  }

  /** Calls a procedure of the other end. Rejects with a `RemoteError` if that throws, or with the reason for which the line was closed. */
  call<Name extends keyof Theirs & string>(
    name: Name,
    argument: Parameters<Theirs[Name]>[0],
  ): Promise<Awaited<ReturnType<Theirs[Name]>>> {
    return new Promise((resolve, reject) => {
      if (this.#closed !== undefined) {
        reject(this.#closed);
        return;
      }
      const id = this.#nextId++;
      this.#pending.set(id, {
        resolve: resolve as PendingCall["resolve"],
        reject,
      });
      this.#send({ kind: "call", id, name, argument });
    });
  }

  /** A message of the line. */
  receive(message: unknown): void {
    const received = message as CallMessage;
    if (this.#closed !== undefined) return;
    if (received.kind === "call") {
      this.#carryOut(received.name, received.argument).then(
        (value) => this.#send({ kind: "returned", id: received.id, value }),
        (error: unknown) => this.#send({ kind: "failed", id: received.id, ...plainError(error) }),
      );
      return;
    }
    const pending = this.#pending.get(received.id);
    this.#pending.delete(received.id);
    if (received.kind === "returned") pending?.resolve(received.value);
    else pending?.reject(new RemoteError(received));
  }

  /** The other end is gone: fails what waits, and every later call. Idempotent. */
  close(reason: Error): void {
    if (this.#closed !== undefined) return;
    this.#closed = reason;
    for (const { reject } of this.#pending.values()) reject(reason);
    this.#pending.clear();
  }

  async #carryOut(name: string, argument: unknown): Promise<unknown> {
    const procedure: unknown = Reflect.get(this.#ours, name);
    if (typeof procedure !== "function") throw new Error(`there is no procedure ${name}`);
    const answer: unknown = Reflect.apply(procedure, this.#ours, [argument]);
    return await answer;
  }

  /** What cannot be copied fails the call that it belongs to. */
  #send(message: CallMessage): void {
    if (this.#closed !== undefined) return;
    try {
      this.#link.send(message);
    } catch (error) {
      if (message.kind === "returned")
        this.#link.send({ kind: "failed", id: message.id, ...plainError(error) });
      else {
        this.#pending.get(message.id)?.reject(error as Error);
        this.#pending.delete(message.id);
      }
    }
  }
}

function plainError(thrown: unknown): PlainError {
  const error = thrown instanceof Error ? thrown : new Error(String(thrown));
  const { name, message, code } = error as Error & { readonly code?: unknown };
  return { name, message, code: typeof code === "string" ? code : undefined };
}
