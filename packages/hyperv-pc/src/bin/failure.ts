/** What the command line got wrong; exit status 2. */
export class UsageMistake extends Error {}

/** Codes of machines that nobody can have asked for on purpose. */
const usageCodes: ReadonlySet<unknown> = new Set([
  "ERR_BOOT_OPTIONS",
  "ERR_COMMAND_LINE",
  "ERR_MEMORY",
  "ERR_TOO_MANY_DISKS",
]);

/** A failure as `--json` shows it. */
export function failureOf(error: unknown): { readonly code?: string; readonly message: string } {
  const { code, message }: NodeJS.ErrnoException =
    error instanceof Error ? error : new Error(String(error));
  return { ...(code !== undefined && { code }), message };
}

/** True if the command line is to blame. */
export function isUsageMistake(error: unknown): boolean {
  return error instanceof UsageMistake || usageCodes.has(failureOf(error).code);
}

/** A failure as standard error tells it. */
export function complaint(error: unknown): string {
  return `hyperv-pc: ${failureOf(error).message.split("\n").join("\nhyperv-pc: ")}\n`;
}
