import type { ShutdownAction } from "@hyperv-is/vmbus-core";
import { FileTree } from "../kernel/file-tree.js";
import type { GuestSystem } from "../kernel/guest-system.js";
import type { ByteSink } from "./byte-pipe.js";
import type { ConsoleReply, ConsoleRequest } from "./console-link.js";
import { Shell } from "./shell.js";

interface RunningLine {
  readonly abort: AbortController;
  /** Goes on after a chunk was taken, or the line interrupted. */
  taken: (() => void) | undefined;
}

/** The guest's end of the console: runs command lines that the machine sends, and streams what they print. */
export class ConsoleServer {
  readonly files: FileTree;
  readonly #shell: Shell;
  readonly #send: (reply: ConsoleReply) => void;
  readonly #running = new Map<number, RunningLine>();
  #shutdown: ShutdownAction | undefined;

  constructor(system: GuestSystem, send: (reply: ConsoleReply) => void) {
    this.files = new FileTree(system);
    this.#shell = new Shell(system, this.files, (action) => (this.#shutdown = action));
    this.#send = send;
  }

  /** Handles a request about command lines. */
  receive(request: Extract<ConsoleRequest, { id: number }>): void {
    switch (request.kind) {
      case "exec":
        void this.#exec(request.id, request.line, request.interactive);
        return;
      case "abort":
        this.#running.get(request.id)?.abort.abort(new Error("interrupted"));
        return;
      case "taken":
        this.#running.get(request.id)?.taken?.();
        return;
      case "complete":
        this.#send({
          kind: "completions",
          id: request.id,
          words: this.#shell.complete(request.line),
        });
        return;
      case "inspect":
        return;
    }
  }

  async #exec(id: number, line: string, interactive: boolean): Promise<void> {
    const running: RunningLine = { abort: new AbortController(), taken: undefined };
    const { signal } = running.abort;
    signal.addEventListener("abort", () => running.taken?.());
    this.#running.set(id, running);
    const stdout: ByteSink = {
      write: async (chunk) => {
        signal.throwIfAborted();
        await new Promise<void>((resolve) => {
          running.taken = resolve;
          this.#send({ kind: "stdout", id, chunk: chunk.slice() });
        });
        signal.throwIfAborted();
      },
    };
    const results = await this.#shell.run(line, {
      stdout,
      stderr: (text) => this.#send({ kind: "stderr", id, text }),
      listBegins: () => this.#send({ kind: "list", id }),
      signal,
      interactive,
    });
    this.#running.delete(id);
    this.#send({ kind: "done", id, results, shutdown: this.#shutdown });
  }
}
