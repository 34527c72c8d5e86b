import { spawnSync } from "node:child_process";
import { existsSync, mkdtempSync, readFileSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { createHash } from "node:crypto";
import { afterAll, describe, expect, test } from "vitest";
import { withGuest, type guest } from "./stock-linux.js";

const tool = fileURLToPath(new URL("../../../tools/stock-guest/stock-guest.mjs", import.meta.url));
const directory = mkdtempSync(join(tmpdir(), "stock-guest-"));
afterAll(() => rmSync(directory, { recursive: true, force: true }));

/** Runs the tool with a cache of its own. */
function compose(args: readonly string[], env: NodeJS.ProcessEnv = {}) {
  return spawnSync(process.execPath, [tool, ...args], {
    encoding: "utf8",
    env: { ...process.env, XDG_CACHE_HOME: directory, ...env },
  });
}

/** Nothing half made stays in the cache. */
function expectEmptyCache(): void {
  const cache = join(directory, "hyperv-is/stock-guest");
  expect(existsSync(cache) ? readdirSync(cache) : []).toEqual([]);
}

describe("the composer explains", () => {
  test("a system without apt", () => {
    const path = join(directory, "bin");
    rmSync(path, { recursive: true, force: true });
    const { status, stderr } = compose([], { PATH: path });
    expect(stderr).toMatch(/^ERR_NO_APT: .*HYPERV_IS_STOCK_GUEST/);
    expect(status).toBe(1);
    expectEmptyCache();
  });

  const hasApt = spawnSync("apt-get", ["--version"]).error === undefined;

  test.runIf(hasApt)("an archive that has no such package", () => {
    const { status, stderr } = compose(["--mirror", `file:${directory}/nothing`]);
    expect(stderr).toMatch(/^ERR_PACKAGE_GONE: .*linux-image-686.*--mirror/);
    expect(status).toBe(1);
    expectEmptyCache();
  });

  test.runIf(hasApt)("an archive that is not reached", { timeout: 60_000 }, () => {
    // Apt waits longer before each time it tries again.
    const settings = join(directory, "apt.conf");
    writeFileSync(settings, 'Acquire::Retries "0";\n');
    // The discard port: nothing listens there.
    const mirror = ["--mirror", "http://127.0.0.1:9/debian"];
    const { status, stderr } = compose(mirror, { APT_CONFIG: settings });
    expect(stderr).toMatch(/^ERR_NO_NETWORK: [^]*apt said:[^]*127\.0\.0\.1/);
    expect(status).toBe(1);
    expectEmptyCache();
  });

  test("an option that it does not know", () => {
    const { status, stderr } = compose(["--output", "x"]);
    expect(stderr).toContain("usage: npm run -s stock-guest");
    expect(status).toBe(2);
  });
});

withGuest(
  "a second run takes the guest from the cache, and needs no apt",
  { timeout: 60_000 },
  () => {
    const path = join(directory, "node-only");
    rmSync(path, { recursive: true, force: true });
    const cache = process.env["XDG_CACHE_HOME"];
    const { status, stdout, stderr } = compose(["--json", "--out", join(directory, "copy")], {
      PATH: path,
      XDG_CACHE_HOME: cache ?? "",
    });
    expect(stderr).toBe("");
    expect(status).toBe(0);
    const shown = JSON.parse(stdout) as NonNullable<typeof guest>["manifest"] & { kernel: string };
    expect(shown.kernel).toBe(join(directory, "copy", "vmlinuz"));
    for (const [name, { lengthBytes, sha256 }] of Object.entries(shown.files)) {
      const bytes = readFileSync(join(directory, "copy", name));
      expect([name, bytes.byteLength]).toEqual([name, lengthBytes]);
      expect(createHash("sha256").update(bytes).digest("hex")).toBe(sha256);
    }
    const kernel = shown.packages.find(({ name }) => name === `linux-image-${shown.kernelRelease}`);
    expect(kernel).toMatchObject({ architecture: "i386", version: /^\d/ });
  },
);
