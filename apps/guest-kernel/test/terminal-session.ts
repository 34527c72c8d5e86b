import { spawn, spawnSync, type ChildProcessByStdio } from "node:child_process";
import { once } from "node:events";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import type { Readable, Writable } from "node:stream";

const root = dirname(
  createRequire(import.meta.url).resolve("@hyperv-is/guest-kernel/package.json"),
);
const program = join(root, "dist", "bin", "guest-kernel.js");

/** Why no terminal can be had here; undefined where util-linux's `script` is. */
export const noTerminal =
  spawnSync("script", ["--version"]).status === 0 ? undefined : "there is no script of util-linux";

/** Keys as a terminal sends them. */
export const Key = { enter: "\r", tab: "\t", up: "\u001b[A", ctrlC: "\u0003", ctrlD: "\u0004" };

/** The program on a terminal, and who types there. */
export class TerminalSession {
  readonly #process: ChildProcessByStdio<Writable, Readable, null>;
  readonly #closed: Promise<number | null>;
  #seen = "";
  /** How much of what was seen has been waited for. */
  #read = 0;
  #changed: () => void = () => undefined;
  #ended = false;

  /** @param home - where the program keeps what it remembers. */
  constructor(home: string, ...args: readonly string[]) {
    const words = [process.execPath, program, ...args].map((word) => `'${word}'`).join(" ");
    this.#process = spawn("script", ["-qefc", words, "/dev/null"], {
      stdio: ["pipe", "pipe", "inherit"],
      env: { ...process.env, TERM: "xterm", XDG_STATE_HOME: home, XDG_CACHE_HOME: home },
    });
    this.#process.stdout.setEncoding("utf8").on("data", (text: string) => {
      this.#seen += text;
      this.#changed();
    });
    this.#closed = once(this.#process, "close").then(([status]) => {
      this.#ended = true;
      this.#changed();
      return status as number | null;
    });
  }

  /** Everything that was on the screen. */
  get transcript(): string {
    return this.#seen;
  }

  type(keys: string): void {
    this.#process.stdin.write(keys);
  }

  /** Waits until a text appears behind the last one that was waited for. @returns What came before it. */
  async waitFor(text: string): Promise<string> {
    for (;;) {
      const at = this.#seen.indexOf(text, this.#read);
      if (at >= 0) {
        const before = this.#seen.slice(this.#read, at);
        this.#read = at + text.length;
        return before;
      }
      if (this.#ended) throw new Error(`no ${JSON.stringify(text)} in ${this.#seen}`);
      await new Promise<void>((resolve) => (this.#changed = resolve));
    }
  }

  /** Takes the terminal away, if it is still there. */
  hangUp(): void {
    this.#process.kill();
  }

  /** Waits for the end. @returns Exit status of the program. */
  exit(): Promise<number | null> {
    return this.#closed;
  }
}
