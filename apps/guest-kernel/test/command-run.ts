import { vi } from "vitest";
import { guestKernelCommand } from "../src/bin/guest-kernel-command.js";

/** How a run of the program has ended, and what it has printed. */
export interface CommandRun {
  readonly status: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

/** Runs the program in this process, which has loaded it: one of its own takes as long as the boot of a guest. */
export async function runCommand(...args: readonly string[]): Promise<CommandRun> {
  const stdout = captured(process.stdout);
  const stderr = captured(process.stderr);
  try {
    const status = await guestKernelCommand(args);
    return { status, stdout: stdout.text(), stderr: stderr.text() };
  } finally {
    stdout.restore();
    stderr.restore();
  }
}

function captured(stream: NodeJS.WriteStream): { text(): string; restore(): void } {
  const chunks: Buffer[] = [];
  const spy = vi.spyOn(stream, "write").mockImplementation((chunk) => {
    chunks.push(Buffer.from(chunk as string));
    return true;
  });
  return { text: () => Buffer.concat(chunks).toString(), restore: () => spy.mockRestore() };
}
