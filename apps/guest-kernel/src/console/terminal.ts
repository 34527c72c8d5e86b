import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { homedir } from "node:os";
import { dirname, join } from "node:path";
import { createInterface } from "node:readline";
import type { Machine } from "../machine.js";

/** What the console prints before a command line. */
export const PROMPT = "root@guest:~ # ";
const HISTORY_LINES = 1000;

function historyFile(): string {
  const base = process.env["XDG_STATE_HOME"] ?? join(homedir(), ".local", "state");
  return join(base, "hyperv-is", "console-history");
}

function readHistory(): string[] {
  try {
    return readFileSync(historyFile(), "utf8").split("\n").filter(Boolean);
  } catch {
    // The first session has none.
    return [];
  }
}

function saveHistory(history: readonly string[]): void {
  try {
    mkdirSync(dirname(historyFile()), { recursive: true });
    writeFileSync(historyFile(), history.slice(0, HISTORY_LINES).join("\n"));
  } catch {
    // A home that cannot be written to is no reason to fail at the end of a session.
  }
}

/** Writes to a stream and waits while it is full. */
export function writeTo(stream: NodeJS.WritableStream, chunk: Uint8Array | string): Promise<void> {
  return new Promise((resolve) => {
    if (stream.write(chunk)) resolve();
    else stream.once("drain", resolve);
  });
}

/**
 * The guest's console on a terminal: history, completion, Ctrl-C interrupts a command, and the program if the
 * command does not end. Resolves with the status of the last command when the guest was shut down, on Ctrl-D
 * or `exit`, or when `end` fires.
 */
export async function runTerminal(machine: Machine, end: AbortSignal): Promise<number> {
  const terminal = createInterface({
    input: process.stdin,
    output: process.stdout,
    prompt: PROMPT,
    history: readHistory(),
    historySize: HISTORY_LINES,
    removeHistoryDuplicates: true,
    completer: (line: string, done: (error: null, result: [string[], string]) => void) => {
      const last = line.slice(line.search(/[^\s;|&]*$/));
      machine.complete(line).then(
        // The only word that it can be is whole.
        (words) => done(null, [words.length === 1 ? [`${words[0]!} `] : [...words], last]),
        () => done(null, [[], last]),
      );
    },
  });
  let history: readonly string[] = [];
  terminal.on("history", (lines) => (history = lines));
  let running: AbortController | undefined;
  /** How often the running command was interrupted. */
  let interrupts = 0;
  terminal.on("SIGINT", () => {
    process.stdout.write("^C\n");
    if (running === undefined) {
      terminal.write(null, { ctrl: true, name: "u" });
      terminal.prompt();
      return;
    }
    running.abort();
    // A command may wait for a disk that does not answer, and nothing interrupts that.
    if (++interrupts === 2)
      process.stdout.write("The command has not ended. Ctrl-C once more shuts the guest down.\n");
    else if (interrupts > 2) process.kill(process.pid, "SIGINT");
  });
  end.addEventListener("abort", () => {
    running?.abort();
    terminal.close();
  });
  let isOff = false;
  const off = (): void => {
    isOff = true;
    terminal.close();
  };
  machine.ended.then(off, off);
  let status = 0;
  try {
    terminal.prompt();
    for await (const line of terminal) {
      const text = line.trim();
      if (text === "exit" || text === "logout") return status;
      if (text !== "") {
        running = new AbortController();
        interrupts = 0;
        const result = await machine
          .exec(text, {
            signal: running.signal,
            interactive: true,
            onStdout: (chunk) => writeTo(process.stdout, chunk),
            onStderr: (chunk) => void process.stderr.write(chunk),
          })
          .catch((error: unknown) => {
            // The host has shut the guest down meanwhile.
            if (isOff) return undefined;
            throw error;
          });
        running = undefined;
        if (result === undefined) return status;
        ({ status } = result);
        if (result.poweredOff) return status;
      }
      if (end.aborted) return status;
      terminal.prompt();
    }
    // Ctrl-D leaves the cursor behind the prompt.
    process.stdout.write("\n");
    return status;
  } finally {
    terminal.close();
    saveHistory(history);
  }
}
