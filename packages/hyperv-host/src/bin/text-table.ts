/** Lines of a table whose columns are as wide as their widest cell. @param rightAligned - columns of numbers. */
export function textTable(
  rows: readonly (readonly string[])[],
  rightAligned: readonly number[] = [],
): string[] {
  const widths = (rows[0] ?? []).map((_, column) =>
    Math.max(...rows.map((row) => row[column]!.length)),
  );
  return rows.map((row) =>
    row
      .map((cell, column) =>
        rightAligned.includes(column)
          ? cell.padStart(widths[column]!)
          : cell.padEnd(widths[column]!),
      )
      .join("  ")
      .trimEnd(),
  );
}

/** A column of a table of counters. */
export type Column<Row> = { readonly title: string } & (
  | { readonly text: (row: Row) => string }
  | { readonly count: (row: Row) => number; readonly isBytes?: true }
);

/** What counters are compared with, to show how many there were in a second. */
export interface Since<Row> {
  readonly seconds: number;
  /** A row as it was then; undefined for one that was not there. */
  readonly row: (row: Row) => Row | undefined;
}

/** Lines of a table of counters, with what they were in all, or in each second since then. */
export function counterTable<Row>(
  columns: readonly Column<Row>[],
  rows: readonly Row[],
  since: Since<Row> | undefined,
): string[] {
  const cell = (column: Column<Row>, row: Row): string => {
    if ("text" in column) return column.text(row);
    const { count, isBytes = false } = column;
    if (since === undefined) return formatCount(count(row), isBytes);
    const before = since.row(row);
    // What counts less than it did has begun anew.
    const grown = before === undefined ? count(row) : count(row) - count(before);
    return formatRate((grown < 0 ? count(row) : grown) / since.seconds, isBytes);
  };
  const titles = columns.map((column) =>
    "count" in column && since ? `${column.title}/s` : column.title,
  );
  return textTable(
    [titles, ...rows.map((row) => columns.map((column) => cell(column, row)))],
    columns.flatMap((column, index) => ("count" in column ? [index] : [])),
  );
}

function formatCount(count: number, isBytes: boolean): string {
  return isBytes ? formatBytes(count) : String(count);
}

function formatRate(rate: number, isBytes: boolean): string {
  if (isBytes) return formatBytes(rate);
  return rate > 0 && rate < 10 ? rate.toFixed(1) : rate.toFixed(0);
}

/** Such as 512B or 1.5M; the units are powers of 1024. */
export function formatBytes(bytes: number): string {
  const units = ["B", "K", "M", "G", "T", "P"];
  const power = Math.min(units.length - 1, Math.floor(Math.log2(Math.max(1, bytes)) / 10));
  const number = bytes / 1024 ** power;
  return `${power === 0 || number >= 100 ? Math.round(number) : Number(number.toFixed(1))}${units[power]}`;
}

/** Such as 01:02:03 or 4d 01:02:03. */
export function formatDuration(durationMs: number): string {
  const seconds = Math.floor(durationMs / 1000);
  const two = (number: number): string => String(number).padStart(2, "0");
  const days = Math.floor(seconds / 86_400);
  const time = [Math.floor(seconds / 3600) % 24, Math.floor(seconds / 60) % 60, seconds % 60];
  return `${days > 0 ? `${days}d ` : ""}${time.map(two).join(":")}`;
}

/** A text without what a terminal would obey. */
export function printable(text: string): string {
  return text.replace(
    /\p{Cc}/gu,
    (character) => `\\x${character.charCodeAt(0).toString(16).padStart(2, "0")}`,
  );
}
