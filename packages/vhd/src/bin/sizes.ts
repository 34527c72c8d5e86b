const units = ["", "K", "M", "G", "T"] as const;

/** Bytes of a size as users write it: `512`, `64K`, `127M`, `40G`, `2T`, in powers of 1024; undefined for anything else. */
export function parseSize(text: string): number | undefined {
  const [, digits, unit] = /^(\d{1,15})([KMGT]?)(?:i?B)?$/i.exec(text) ?? [];
  if (digits === undefined || unit === undefined) return undefined;
  const bytes = Number(digits) * 1024 ** units.findIndex((known) => known === unit.toUpperCase());
  return Number.isSafeInteger(bytes) ? bytes : undefined;
}

/** A size as a person reads it, `40 GiB`, with one decimal where it is not whole. */
export function formatSize(bytes: number): string {
  let power = 0;
  while (power < units.length - 1 && bytes >= 1024 ** (power + 1)) power++;
  const value = bytes / 1024 ** power;
  const unit = power === 0 ? "bytes" : `${units[power]!}iB`;
  return `${Number.isInteger(value) ? value : value.toFixed(1)} ${unit}`;
}
