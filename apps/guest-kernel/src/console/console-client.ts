import type { ShutdownAction } from "@hyperv-is/vmbus-core";
import type { ConsoleReply, ConsoleRequest } from "./console-link.js";
import type { ListResult } from "./shell.js";

export interface ExecOptions {
  /** Gets standard output as it comes, instead of the result; the next chunk waits until it resolves. */
  readonly onStdout?: (chunk: Uint8Array) => void | Promise<void>;
  /** Gets standard error as it comes, instead of the result. */
  readonly onStderr?: (text: string) => void;
  /** Interrupts the command line, as Ctrl-C does. */
  readonly signal?: AbortSignal;
  /** Somebody watches: commands may show progress. */
  readonly interactive?: boolean;
}

/** What became of one list of a command line: of what stands between `;`. */
export interface ExecutedList extends ListResult {
  /** Empty when `onStdout` took it. */
  readonly stdout: string;
  readonly stderr: string;
}

export interface ExecResult {
  /** Status of the last list of the command line. */
  readonly status: number;
  /** Of all lists. */
  readonly stdout: string;
  readonly stderr: string;
  readonly lists: readonly ExecutedList[];
  /** The line had the machine shut down, which has happened: to switch it off, or to restart it. */
  readonly poweredOff: boolean;
}

interface PendingLine {
  /** What its lists have printed so far. */
  readonly outputs: { readonly stdout: Uint8Array[]; stderr: string }[];
  readonly options: ExecOptions;
  resolve(result: ExecResult): void;
  reject(error: Error): void;
}

interface PendingAnswer {
  resolve(reply: ConsoleReply): void;
  reject(error: Error): void;
}

/** What the console says of what it was asked. */
type ConsoleAnswer = Extract<
  ConsoleReply,
  { kind: "list" | "stdout" | "stderr" | "done" | "completions" | "inspected" }
>;

/** The machine's end of its guest's console. */
export class ConsoleClient {
  readonly #post: (request: ConsoleRequest) => void;
  readonly #shutDown: (action: ShutdownAction) => Promise<void>;
  readonly #lines = new Map<number, PendingLine>();
  readonly #answers = new Map<number, PendingAnswer>();
  #nextId = 1;
  #failure: Error | undefined;

  /** @param shutDown - Shuts the machine down, as a command line has asked. */
  constructor(
    post: (request: ConsoleRequest) => void,
    shutDown: (action: ShutdownAction) => Promise<void>,
  ) {
    this.#post = post;
    this.#shutDown = shutDown;
  }

  /** Runs a command line. Resolves whatever the status is; rejects when the console is closed meanwhile. */
  exec(line: string, options: ExecOptions = {}): Promise<ExecResult> {
    if (this.#failure !== undefined) return Promise.reject(this.#failure);
    const id = this.#nextId++;
    return new Promise((resolve, reject) => {
      this.#lines.set(id, { outputs: [], options, resolve, reject });
      const { signal, interactive = false } = options;
      this.#post({ kind: "exec", id, line, interactive });
      if (signal === undefined) return;
      const abort = (): void => this.#post({ kind: "abort", id });
      if (signal.aborted) abort();
      else signal.addEventListener("abort", abort, { once: true });
    });
  }

  /** What could follow the last word of a command line. */
  async complete(line: string): Promise<readonly string[]> {
    const reply = await this.#ask((id) => ({ kind: "complete", id, line }));
    return reply.kind === "completions" ? reply.words : [];
  }

  /** State and counters of the guest's bus and drivers, as plain JSON. */
  async inspect(): Promise<Record<string, unknown>> {
    const reply = await this.#ask((id) => ({ kind: "inspect", id }));
    return reply.kind === "inspected" ? reply.state : {};
  }

  /** Takes what the guest says. */
  receive(reply: ConsoleAnswer): void {
    switch (reply.kind) {
      case "list":
        this.#lines.get(reply.id)?.outputs.push({ stdout: [], stderr: "" });
        return;
      case "stdout":
        void this.#takeOutput(reply.id, reply.chunk);
        return;
      case "stderr": {
        const line = this.#lines.get(reply.id);
        if (line?.options.onStderr !== undefined) line.options.onStderr(reply.text);
        else if (line !== undefined) line.outputs.at(-1)!.stderr += reply.text;
        return;
      }
      case "done":
        void this.#done(reply);
        return;
      default:
        this.#answers.get(reply.id)?.resolve(reply);
        this.#answers.delete(reply.id);
    }
  }

  /** The guest is gone: what it has not answered rejects, and so does what it is asked from now on. */
  close(error: Error): void {
    this.#failure ??= error;
    for (const waiting of [this.#lines, this.#answers]) {
      for (const one of waiting.values()) one.reject(error);
      waiting.clear();
    }
  }

  #ask(request: (id: number) => ConsoleRequest): Promise<ConsoleReply> {
    if (this.#failure !== undefined) return Promise.reject(this.#failure);
    const id = this.#nextId++;
    return new Promise((resolve, reject) => {
      this.#answers.set(id, { resolve, reject });
      this.#post(request(id));
    });
  }

  async #takeOutput(id: number, chunk: Uint8Array): Promise<void> {
    const line = this.#lines.get(id);
    if (line?.options.onStdout === undefined) line?.outputs.at(-1)!.stdout.push(chunk);
    else await line.options.onStdout(chunk);
    this.#post({ kind: "taken", id });
  }

  async #done({ id, results, shutdown }: Extract<ConsoleReply, { kind: "done" }>): Promise<void> {
    const line = this.#lines.get(id);
    if (line === undefined) return;
    this.#lines.delete(id);
    try {
      if (shutdown !== undefined) await this.#shutDown(shutdown);
    } catch (error) {
      line.reject(error as Error);
      return;
    }
    const lists = results.map((result, index) => {
      const { stdout, stderr } = line.outputs[index]!;
      return { ...result, stdout: new TextDecoder().decode(concat(stdout)), stderr };
    });
    line.resolve({
      status: lists.at(-1)?.status ?? 0,
      stdout: lists.map(({ stdout }) => stdout).join(""),
      stderr: lists.map(({ stderr }) => stderr).join(""),
      lists,
      poweredOff: shutdown !== undefined,
    });
  }
}

function concat(chunks: readonly Uint8Array[]): Uint8Array {
  const whole = new Uint8Array(chunks.reduce((sum, { byteLength }) => sum + byteLength, 0));
  let at = 0;
  for (const chunk of chunks) {
    whole.set(chunk, at);
    at += chunk.byteLength;
  }
  return whole;
}
