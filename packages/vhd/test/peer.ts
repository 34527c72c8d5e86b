import { spawnSync } from "node:child_process";

/**
 * Whether a program that a test needs runs here. Without it the test is to be skipped, and the reason is
 * printed; where `CI` is set nothing is skipped, and this throws.
 *
 * @param install - The command that brings the program, or what else to do.
 */
export function hasPeer(command: string, args: readonly string[], install: string): boolean {
  const { status } = spawnSync(command, args, { stdio: "ignore" });
  if (status === 0) return true;
  const reason = `'${[command, ...args].join(" ")}' does not run here (${install})`;
  if (process.env["CI"] !== undefined) throw new Error(reason);
  console.warn(`skipped: ${reason}`);
  return false;
}
