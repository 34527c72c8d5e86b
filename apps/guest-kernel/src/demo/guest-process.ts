import { spawn, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import { createInterface } from "node:readline";

/** Bytes of standard error that are kept: enough for what a program says at its end. */
const COMPLAINT_MAX = 4096;

/** A step of a demo that went wrong. */
export class DemoError extends Error {
  readonly code = "ERR_DEMO";

  constructor(message: string) {
    super(message);
    this.name = "DemoError";
  }
}

interface Waiter {
  readonly pattern: RegExp;
  readonly resolve: (match: RegExpExecArray) => void;
  readonly reject: (error: Error) => void;
}

/** `guest-kernel boot` as a process of its own, whose standard output is read line by line. */
export class GuestProcess {
  readonly name: string;
  /** Resolves with the exit status when the process has ended and all it has said is read; null after a signal. */
  readonly ended: Promise<number | null>;
  readonly #child: ChildProcess;
  /** Lines that nobody has looked for yet. */
  #lines: string[] = [];
  #waiter: Waiter | undefined;
  #complaint = "";
  #end: string | undefined;

  /** @param name - For messages. @param args - Of `guest-kernel boot`. */
  constructor(name: string, args: readonly string[]) {
    this.name = name;
    const child = spawn(process.execPath, [process.argv[1]!, "boot", ...args], {
      stdio: ["ignore", "pipe", "pipe"],
    });
    this.#child = child;
    createInterface({ input: child.stdout }).on("line", (line) => this.#take(line));
    child.stderr.setEncoding("utf8").on("data", (text: string) => {
      this.#complaint = (this.#complaint + text).slice(-COMPLAINT_MAX);
    });
    this.ended = once(child, "close").then(([status]) => {
      this.#fail(`${name} has ended with ${status === null ? "a signal" : `status ${status}`}`);
      return status as number | null;
    });
  }

  /**
   * The next line that matches, of those after the last one that did. One call at a time. Rejects with `DemoError` when
   * the process ends without such a line.
   */
  line(pattern: RegExp): Promise<RegExpExecArray> {
    return new Promise((resolve, reject) => {
      this.#waiter = { pattern, resolve, reject };
      const lines = this.#lines;
      this.#lines = [];
      for (const line of lines) this.#take(line);
      if (this.#end !== undefined) this.#fail(this.#end);
    });
  }

  /** Forgets the lines that nobody has looked for. */
  skip(): void {
    this.#lines = [];
  }

  /** Throws a `DemoError` if the process has ended. */
  check(): void {
    if (this.#end !== undefined) throw this.#failure(this.#end);
  }

  /** Sends a signal, and resolves when the process has ended. */
  async kill(signal: NodeJS.Signals): Promise<void> {
    this.#child.kill(signal);
    await this.ended;
  }

  #take(line: string): void {
    const match = this.#waiter?.pattern.exec(line);
    if (!match) {
      this.#lines.push(line);
      return;
    }
    this.#lines = [];
    this.#waiter?.resolve(match);
    this.#waiter = undefined;
  }

  #fail(end: string): void {
    this.#end = end;
    this.#waiter?.reject(this.#failure(end));
  }

  #failure(end: string): DemoError {
    const said = this.#complaint.trim();
    return new DemoError(said === "" ? end : `${end}:\n${said}`);
  }
}
