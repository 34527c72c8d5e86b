import { spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import {
  closeSync,
  existsSync,
  openSync,
  readdirSync,
  readFileSync,
  statSync,
  truncateSync,
  writeFileSync,
  writeSync,
} from "node:fs";
import { describe, expect, test, vi } from "vitest";
import { formatSize, parseSize } from "../src/bin/sizes.js";
import { vhdCommand } from "../src/bin/vhd-command.js";
import { openImageFile } from "../src/node/index.js";
import { packageFile } from "./built.js";
import { hasPeer } from "./peer.js";
import { Prng } from "./prng.js";
import { temporaryDirectory } from "./temporary-directory.js";

const temporary = temporaryDirectory();
const MIB = 1 << 20;
const program = packageFile("dist/bin/vhd.js");

interface Run {
  readonly status: number | null;
  readonly out: string;
  readonly err: string;
}

/** Runs the program in a process of its own, which takes much longer than most of what it does. */
function vhdProcess(...args: readonly string[]): Run {
  const { status, stdout, stderr } = spawnSync(process.execPath, [program, ...args], {
    encoding: "utf8",
  });
  return { status, out: stdout, err: stderr };
}

/** Runs the program here. */
async function vhd(...args: readonly string[]): Promise<Run> {
  const out = vi.spyOn(process.stdout, "write").mockReturnValue(true);
  const err = vi.spyOn(process.stderr, "write").mockReturnValue(true);
  const written = ({ mock }: typeof out): string => mock.calls.map(([text]) => text).join("");
  try {
    const status = await vhdCommand(args);
    return { status, out: written(out), err: written(err) };
  } finally {
    out.mockRestore();
    err.mockRestore();
  }
}

async function json(...args: readonly string[]): Promise<Record<string, unknown>> {
  const { status, out, err } = await vhd(...args, "--json");
  expect({ status, err }).toEqual({ status: 0, err: "" });
  return JSON.parse(out) as Record<string, unknown>;
}

/** A sparse raw file with some data, whose size is no multiple of a block. */
function rawFile(name: string): string {
  const path = temporary(name);
  const file = openSync(path, "w");
  const bytes = new Uint8Array(300_000);
  new Prng(5).fill(bytes);
  for (const position of [0, 9 * MIB + 512, 40 * MIB - 300_000 + 512])
    writeSync(file, bytes, 0, bytes.byteLength, position);
  closeSync(file);
  return path;
}

function sameContent(a: string, b: string): boolean {
  if (statSync(a).size !== statSync(b).size) return false;
  const [one, two] = [readFileSync(a), readFileSync(b)];
  return one.equals(two);
}

describe("sizes", () => {
  test.each([
    ["512", 512],
    ["64K", 65_536],
    ["127M", 127 * MIB],
    ["40G", 40 * 1024 * MIB],
    ["2t", 2 * 1024 ** 4],
    ["8GiB", 8 * 1024 ** 3],
    ["1KB", 1024],
  ])("%s", (text, bytes) => expect(parseSize(text)).toBe(bytes));

  test.each(["", "G", "-1", "1.5G", "1e3", "12X", "0x10", "9999999999999999", "9999999T"])(
    "'%s' is none",
    (text) => expect(parseSize(text)).toBeUndefined(),
  );

  test("are shown in the largest unit", () => {
    expect(formatSize(511)).toBe("511 bytes");
    expect(formatSize(1024)).toBe("1 KiB");
    expect(formatSize(40 * 1024 ** 3)).toBe("40 GiB");
    expect(formatSize(1.5 * 1024 ** 2)).toBe("1.5 MiB");
  });
});

describe("usage", () => {
  test("help is on standard output, for the program and for each command", async () => {
    for (const args of [["--help"], ["-h"], ["help"]]) {
      const { status, out, err } = await vhd(...args);
      expect({ status, err }).toEqual({ status: 0, err: "" });
      for (const command of ["create", "info", "check", "convert"]) expect(out).toContain(command);
    }
    for (const command of ["create", "info", "check", "convert"]) {
      const { status, out } = await vhd(command, "--help");
      expect(status).toBe(0);
      expect(out).toContain(`Usage: vhd ${command}`);
      expect(out).toContain("--json");
    }
  });

  test.each([
    [],
    ["frobnicate"],
    ["create"],
    ["create", "x.vhd"],
    ["create", "--size", "0", "x.vhd"],
    ["create", "--size", "10Q", "x.vhd"],
    ["create", "--size", "1M", "--format", "qcow2", "x"],
    ["create", "--size", "1M", "--format", "vhd-fixed", "--block-size", "2M", "x"],
    ["create", "--size", "1M", "a", "b"],
    ["create", "--unknown", "a"],
    ["info"],
    ["check", "a", "b"],
    ["convert", "a"],
    ["convert", "a", "b"],
    ["convert", "--to", "zip", "a", "b"],
  ])("vhd %s %s %s is wrong usage", async (...args) => {
    const { status, out, err } = await vhd(...args.filter((arg) => typeof arg === "string"));
    expect({ status, out }).toEqual({ status: 2, out: "" });
    expect(err).toMatch(/^(vhd .*Try 'vhd \w+ --help'\.\n|vhd: there is no command|Usage: )/);
  });
});

test("as a program it has these outputs and exit codes", () => {
  const path = temporary("program.vhd");
  expect(vhdProcess("--help")).toMatchObject({ status: 0, err: "" });
  const made = vhdProcess("create", "--size", "1M", "--json", path);
  expect(made).toMatchObject({ status: 0, err: "" });
  expect(JSON.parse(made.out)).toMatchObject({ file: path, sizeBytes: MIB });
  const again = vhdProcess("create", "--size", "1M", path);
  expect(again).toMatchObject({ status: 1, out: "" });
  expect(again.err).toContain("there is a file already");
  const wrong = vhdProcess("create", path);
  expect(wrong).toMatchObject({ status: 2, out: "" });
  expect(wrong.err).toContain("vhd create --help");
});

describe("create, info and check", () => {
  test.each([
    ["vhd-fixed", "a.vhd", []],
    ["vhd-dynamic", "b.vhd", ["--block-size", "512K"]],
    ["vhdx-fixed", "c.vhdx", ["--logical-sector", "4096"]],
    ["vhdx-dynamic", "d.vhdx", ["--block-size", "8M", "--physical-sector", "512"]],
  ])("%s", async (format, name, options) => {
    const path = temporary(name);
    const made = await json("create", "--size", "127M", "--format", format, ...options, path);
    expect(made).toMatchObject({ file: path, format, sizeBytes: 127 * MIB });
    if (options[0] === "--block-size") expect(made["blockBytes"]).toBe(parseSize(options[1] ?? ""));
    if (options[0] === "--logical-sector") expect(made["logicalSectorBytes"]).toBe(4096);
    expect(await json("info", path)).toEqual(made);
    const { status, out } = await vhd("info", path);
    expect(status).toBe(0);
    expect(out).toMatch(/^format +vhd/m);
    expect(out).toMatch(/^disk size +127 MiB \(133169152 bytes\)$/m);
    expect(await json("check", path)).toEqual({ file: path, findings: [] });
    expect(await vhd("check", path)).toEqual({
      status: 0,
      out: `${path}: no damage found\n`,
      err: "",
    });
  });

  test("the format comes from the name, and a file is replaced only by force", async () => {
    const path = temporary("by-name.vhd");
    expect((await json("create", "--size", "1M", path))["format"]).toBe("vhd-dynamic");
    const { status, err } = await vhd("create", "--size", "2M", path);
    expect(status).toBe(1);
    expect(err).toMatch(/by-name.vhd: there is a file already.*--force/);
    expect((await json("create", "--size", "2M", "--force", path))["sizeBytes"]).toBe(2 * MIB);
    expect((await json("create", "--size", "1M", temporary("by-name")))["format"]).toBe(
      "vhdx-dynamic",
    );
  });

  test("a refused size leaves nothing behind", async () => {
    const path = temporary("refused.vhd");
    for (const args of [
      ["--size", "1000"],
      ["--size", "3T"],
      ["--size", "1M", "--block-size", "3M"],
    ]) {
      const { status, err } = await vhd("create", ...args, path);
      expect(status).toBe(1);
      expect(err).toContain(`vhd create: ${path}: `);
    }
    expect(readdirSync(temporary(".")).filter((name) => name.includes("refused"))).toEqual([]);
  });

  test("an image in use is described, and neither checked nor replaced", async () => {
    const path = temporary("used.vhdx");
    await json("create", "--size", "1M", path);
    const disk = await openImageFile(path);
    expect((await vhd("info", path)).status).toBe(0);
    for (const args of [
      ["check", path],
      ["create", "--force", "--size", "2M", path],
      ["convert", path, temporary("used.raw")],
    ]) {
      const { status, err } = vhdProcess(...args);
      expect(status).toBe(1);
      expect(err).toContain(`open for writing in process ${process.pid}`);
    }
    disk.close();
  });

  test("damage is listed with its place; an error exits with 1, a warning with 0", async () => {
    const path = temporary("damaged.vhd");
    await json("create", "--size", "10M", path);
    const file = openSync(path, "r+");
    writeSync(file, Uint8Array.of(1), 0, 1, statSync(path).size - 1);
    const torn = await vhd("check", path);
    expect(torn.status).toBe(0);
    expect(torn.out).toMatch(
      /^warning: footer at file offset 2048: the checksum.*\n.*0 errors, 1 warnings\n$/,
    );
    writeSync(file, Uint8Array.of(0, 0, 0, 1), 0, 4, 1536 + 4);
    closeSync(file);
    const { status, out } = await vhd("check", path);
    expect(status).toBe(1);
    expect(out).toMatch(/^error: block allocation table entry 1 at file offset 1540: .*overlaps/m);
    const report = await vhd("check", "--json", path);
    expect(report.status).toBe(1);
    expect(JSON.parse(report.out)).toMatchObject({
      findings: [
        { severity: "warning", structure: "footer", offset: 2048 },
        { severity: "error", structure: "block allocation table entry 1", offset: 1540 },
      ],
    });
  });

  test("what is no image is told apart", async () => {
    const raw = temporary("zeros.img");
    writeFileSync(raw, new Uint8Array(MIB));
    expect(await vhd("info", raw)).toMatchObject({ status: 1, out: "" });
    expect((await vhd("info", raw)).err).toMatch(/zeros.img: .*neither.*vhd convert --from raw/);
    const qcow = temporary("x.qcow2");
    writeFileSync(qcow, "QFI\xfb\0\0\0\x03", "latin1");
    expect((await vhd("check", qcow)).err).toContain("it is a QCOW image");
    const missing = await vhd("info", "--json", temporary("missing"));
    expect(missing.status).toBe(1);
    expect(JSON.parse(missing.out)).toMatchObject({ error: { code: "ERR_IMAGE_FILE" } });
  });
});

describe("convert", () => {
  test("goes through all formats and back to the same bytes, sparsely", async () => {
    const raw = rawFile("start.raw");
    let source = raw;
    for (const name of ["1.vhd", "2.vhdx", "3.vhd-fixed", "4.vhdx-fixed", "5.raw"]) {
      const target = temporary(name);
      const to = name.includes("fixed") ? ["--to", name.slice(2)] : [];
      const made = await json(
        "convert",
        ...(source === raw ? ["--from", "raw"] : []),
        ...to,
        source,
        target,
      );
      expect(made["sizeBytes"]).toBe(40 * MIB + 512);
      if (name !== "5.raw") expect((await json("check", target))["findings"]).toEqual([]);
      expect(statSync(target).blocks * 512).toBeLessThan(16 * MIB);
      source = target;
    }
    expect(sameContent(raw, source)).toBe(true);
  });

  test("reads what is no image as raw, and says so; not what is another format", async () => {
    const raw = rawFile("unnamed.bin");
    const { status, err } = await vhd("convert", raw, temporary("unnamed.vhdx"));
    expect(status).toBe(0);
    expect(err).toContain("reading it as raw");
    const qcow = temporary("y.qcow2");
    writeFileSync(qcow, "QFI\xfb\0\0\0\x03", "latin1");
    expect(await vhd("convert", qcow, temporary("y.raw"))).toMatchObject({ status: 1 });
    expect(existsSync(temporary("y.raw"))).toBe(false);
  });

  test("rounds an odd raw file up to a sector", async () => {
    const path = temporary("odd.raw");
    writeFileSync(path, "hello");
    expect((await json("convert", "--from", "raw", path, temporary("odd.vhd")))["sizeBytes"]).toBe(
      512,
    );
    await json("convert", temporary("odd.vhd"), temporary("odd2.raw"));
    expect(readFileSync(temporary("odd2.raw"), "latin1")).toBe("hello".padEnd(512, "\0"));
  });

  test("in place, by force", async () => {
    const path = rawFile("in-place.img");
    const before = readFileSync(path);
    expect((await vhd("convert", "--force", "--to", "vhdx-dynamic", path, path)).status).toBe(0);
    expect((await json("info", path))["format"]).toBe("vhdx-dynamic");
    expect((await vhd("convert", "--force", "--to", "raw", path, path)).status).toBe(0);
    expect(before.equals(readFileSync(path))).toBe(true);
  });

  test("keeps the sectors' size, and refuses a target that has another", async () => {
    const path = temporary("4k.vhdx");
    await json("create", "--size", "8M", "--logical-sector", "4096", path);
    expect((await json("convert", path, temporary("4k-copy.vhdx")))["logicalSectorBytes"]).toBe(
      4096,
    );
    const { status, err } = await vhd("convert", path, temporary("4k.vhd"));
    expect(status).toBe(1);
    expect(err).toContain("sectors of 4096 bytes");
    expect(existsSync(temporary("4k.vhd"))).toBe(false);
  });

  test("a damaged source makes no target", async () => {
    const path = temporary("cut.vhd");
    await json("convert", "--from", "raw", rawFile("cut.raw"), path);
    truncateSync(path, 100_000);
    const { status, err } = await vhd("convert", path, temporary("cut.vhdx"));
    expect(status).toBe(1);
    expect(err).toMatch(
      /cut.vhd: block allocation table entry \d+ at file offset \d+: .*the file at 100000/,
    );
    expect(readdirSync(temporary(".")).filter((name) => name.includes("cut.vhdx"))).toEqual([]);
  });

  test.each(["SIGINT", "SIGTERM"] as const)("%s leaves no half-made target", async (signal) => {
    const source = temporary("large.raw");
    writeFileSync(source, new Uint8Array(4 * MIB).fill(1));
    // Enough zeros to read that the signal comes long before the end.
    truncateSync(source, 200 * 1024 * MIB);
    const target = temporary(`stopped-${signal}.vhdx`);
    writeFileSync(target, "old");
    const args = [program, "convert", "--force", "--from", "raw", source, target];
    const child = spawn(process.execPath, args);
    const half = (): boolean =>
      readdirSync(temporary(".")).some((name) => name.startsWith(`.stopped-${signal}`));
    while (!half()) await new Promise((resolve) => setImmediate(resolve));
    child.kill(signal);
    expect(await once(child, "exit")).toEqual([null, signal]);
    expect(half()).toBe(false);
    expect(readFileSync(target, "latin1")).toBe("old");
  });
});

const hasScript = hasPeer("script", ["-qec", "true", "/dev/null"], "apt-get install bsdutils");
test.runIf(hasScript)("progress is shown on a terminal and not in a pipe", () => {
  const raw = rawFile("progress.raw");
  expect(vhdProcess("convert", "--from", "raw", raw, temporary("quiet.vhd")).err).toBe("");
  const command = [program, "convert", "--from", "raw", raw, temporary("shown.vhd")]
    .map((word) => `'${word}'`)
    .join(" ");
  const { stdout, status } = spawnSync(
    "script",
    ["-qec", `'${process.execPath}' ${command}`, "/dev/null"],
    { encoding: "utf8" },
  );
  expect(status).toBe(0);
  expect(stdout).toMatch(/\d+ % {2}.* of 40\.0 MiB/);
});
