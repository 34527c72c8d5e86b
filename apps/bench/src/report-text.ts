import type { BenchmarkReport, BenchmarkResult } from "./report.js";

/** A report as a table; with an earlier report, the last column says how far value and ratio have moved since. */
export function formatTable(report: BenchmarkReport, earlier?: BenchmarkReport): string {
  const { bench, revision, machine, date, results } = report;
  const header = ["", "ours", "peer's", "unit", "ratio", "runs", "peer"];
  const rows = results.map((result) => [
    result.name,
    formatNumber(result.value),
    result.peerValue === null ? "" : formatNumber(result.peerValue),
    result.unit,
    result.ratio === null ? "" : result.ratio.toFixed(2),
    result.noisyRuns === undefined
      ? String(result.runs)
      : `${result.runs} (${result.noisyRuns} noisy)`,
    result.peer ?? "",
  ]);
  if (earlier !== undefined) {
    header.push(`since ${earlier.revision}`);
    for (const [index, result] of results.entries()) rows[index]!.push(change(result, earlier));
  }
  const title = `${bench} at ${revision}, ${date}\n${machine}\n\n`;
  return title + align([header, ...rows], new Set([1, 2, 4]));
}

/** The changes since an earlier report, one line per result. */
export function formatChanges(report: BenchmarkReport, earlier: BenchmarkReport): string {
  const rows = report.results.map((result) => [result.name, change(result, earlier)]);
  return `${report.bench} since ${earlier.revision}, ${earlier.date}\n${align(rows, new Set())}`;
}

/** The ratios as bars, with a mark where both sides would be equal. @param columns - width of the terminal. */
export function formatChart(results: readonly BenchmarkResult[], columns: number): string {
  const rated = results.filter((result) => result.ratio !== null);
  if (rated.length === 0) return "";
  const nameColumns = Math.max(...rated.map(({ name }) => name.length));
  const barColumns = Math.min(columns - nameColumns - 10, 60);
  if (barColumns < 10) return "";
  const most = Math.max(1, ...rated.map(({ ratio }) => ratio!));
  const equal = Math.round((barColumns - 1) / most);
  const lines = rated.map(({ name, ratio }) => {
    const filled = Math.round(((barColumns - 1) * ratio!) / most);
    const bar = Array.from({ length: barColumns }, (_, at) =>
      at < filled ? "█" : at === equal ? "┊" : " ",
    ).join("");
    return `${name.padEnd(nameColumns)}  ${bar} ${ratio!.toFixed(2)}\n`;
  });
  const legend = `${" ".repeat(nameColumns + 2 + equal)}┊ 1: as fast as the peer\n`;
  return lines.join("") + legend;
}

/** A number with three digits that count, in thousands or millions where it has them. */
export function formatNumber(value: number): string {
  const [divisor, suffix] = value >= 1e6 ? [1e6, " M"] : value >= 1e4 ? [1e3, " k"] : [1, ""];
  const scaled = value / divisor;
  return scaled.toFixed(scaled >= 100 ? 0 : scaled >= 10 ? 1 : 2) + suffix;
}

function change(result: BenchmarkResult, earlier: BenchmarkReport): string {
  const before = earlier.results.find(({ name }) => name === result.name);
  if (before === undefined) return "new";
  const value = `value ${percent(result.value, before.value)}`;
  if (result.ratio === null || before.ratio === null) return value;
  return `${value}, ratio ${percent(result.ratio, before.ratio)}`;
}

function percent(now: number, before: number): string {
  if (before === 0) return now === 0 ? "+0.0 %" : "from 0";
  const moved = ((now - before) / before) * 100;
  return `${moved < 0 ? "" : "+"}${moved.toFixed(1)} %`;
}

function align(rows: readonly (readonly string[])[], rightColumns: ReadonlySet<number>): string {
  const widths = rows[0]!.map((_, column) => Math.max(...rows.map((row) => row[column]!.length)));
  const lines = rows.map((row) =>
    row
      .map((cell, column) =>
        rightColumns.has(column) ? cell.padStart(widths[column]!) : cell.padEnd(widths[column]!),
      )
      .join("  ")
      .trimEnd(),
  );
  return `${lines.join("\n")}\n`;
}
