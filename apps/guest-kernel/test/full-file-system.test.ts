import { execFileSync, spawnSync } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, expect, test } from "vitest";

const ownMounts = ["--map-root-user", "--mount"];
const canMount = spawnSync("unshare", [...ownMounts, "true"]).status === 0;
if (!canMount) {
  const reason = `'unshare ${ownMounts.join(" ")}' fails: run as root, or allow user namespaces`;
  if (process.env["CI"]) throw new Error(reason);
  console.log(`skipped: ${reason}`);
}

const directory = mkdtempSync(join(tmpdir(), "guest-full-"));
afterAll(() => rmSync(directory, { recursive: true, force: true }));

interface Report {
  readonly flushed: number;
  readonly overflowing: [number, string];
  readonly hashes: string[];
  readonly afterwards: [number, string];
  readonly later: [string, string];
  readonly messages: string[];
  readonly lastError: string;
  readonly violations: unknown[];
  readonly findings: unknown[];
  readonly judge: string;
}

test.runIf(canMount).each(["vhd-dynamic", "vhdx-dynamic"])(
  "a guest learns that the host's file system is full, loses nothing, and goes on when it is not (%s)",
  (format) => {
    const script = 'mount -t tmpfs -o size=24m none "$1" && exec "$2" "$3" "$1" "$4"';
    const guest = fileURLToPath(new URL("full-file-system-guest.mjs", import.meta.url));
    const args = ["sh", "-c", script, "sh", directory, process.execPath, guest, format];
    const report = JSON.parse(
      execFileSync("unshare", [...ownMounts, ...args], { encoding: "utf8" }),
    ) as Report;

    expect(report.flushed).toBe(0);
    const [status, stderr] = report.overflowing;
    expect(status).toBe(1);
    expect(stderr).toMatch(
      /^dd: \/dev\/da0: No space left on device \(WRITE of 128 blocks .*space allocation failed \(7\/27\/07\)\)\n$/,
    );
    expect(report.messages).toEqual([
      expect.stringMatching(/^\(da0:storvsc0:0:0:0\): WRITE of .*data protect, space allocation/),
      "(da0:storvsc0:0:0:0): Error 28, Unretryable error",
      "",
    ]);
    expect(report.lastError).toMatch(/no space is left \(ENOSPC\)\. Free some space/);
    expect(new Set(report.hashes).size).toBe(1);
    expect(report.afterwards).toEqual([0, ""]);
    expect(report.later[0]).toMatch(/^[\da-f]{64}\n$/);
    expect(report.later[1]).toBe(report.later[0]);
    expect(report.violations).toEqual([]);
    expect(report.findings).toEqual([]);
    expect(report.judge).toContain("No errors");
  },
);
