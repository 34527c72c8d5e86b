import { createRequire } from "node:module";

/** Why what takes Linux and koffi is skipped; undefined if it is not. @param what - of Linux's is tested. */
export function whyNot(what: string): string | undefined {
  if (process.platform !== "linux") return `${what}: skipped: they are Linux's`;
  try {
    createRequire(import.meta.url).resolve("koffi");
  } catch {
    return `${what}: skipped: the package koffi is not installed`;
  }
  return undefined;
}
