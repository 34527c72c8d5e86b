import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import {
  HostOptionError,
  hostOptions,
  hostOptionsUsage,
  parseHostOptions,
  parseMemorySize,
  type HostOptions,
} from "../src/node/index.js";

let directory = "";
beforeAll(() => {
  directory = mkdtempSync(join(tmpdir(), "hyperv-host-"));
});
afterAll(() => rmSync(directory, { recursive: true }));

const parse = (...args: string[]): HostOptions =>
  parseHostOptions(parseArgs({ args, options: hostOptions }).values);

describe("what a user may say of the host", () => {
  test("nothing", () => {
    expect(parse()).toEqual({
      disks: [],
      faults: undefined,
      trace: undefined,
      control: undefined,
      bus: undefined,
      failOnViolations: false,
    });
  });

  test.each([
    ["a.vhdx", { path: "a.vhdx", readOnly: false }, undefined],
    ["a.vhdx,ro", { path: "a.vhdx", readOnly: true }, undefined],
    ["a.vhdx,controller=2", { path: "a.vhdx", readOnly: false }, 2],
    ["a.vhdx,controller=0,ro", { path: "a.vhdx", readOnly: true }, 0],
    ["a.vhdx,ro,controller=3", { path: "a.vhdx", readOnly: true }, 3],
    ["a.vhdx,io=async", { path: "a.vhdx", readOnly: false, io: "async" }, undefined],
    ["a.vhdx,io=sync,ro,controller=1", { path: "a.vhdx", readOnly: true, io: "sync" }, 1],
    ["odd,io,name.vhdx", { path: "odd,io,name.vhdx", readOnly: false }, undefined],
    ["odd,name.vhdx", { path: "odd,name.vhdx", readOnly: false }, undefined],
    ["odd,rom,ro", { path: "odd,rom", readOnly: true }, undefined],
    ["ro", { path: "ro", readOnly: false }, undefined],
  ])("--disk %s", (text, source, controller) => {
    expect(parse("--disk", text).disks).toEqual([
      { source: { kind: "image", ...source }, ...(controller !== undefined && { controller }) },
    ]);
  });

  test("--ceiling leaves the older versions", () => {
    expect(parse("--ceiling", "2.4").bus).toEqual({
      versions: [0x0002_0004, 0x0001_0001, 0x0000_000d],
    });
  });

  test("--faults reads a plan, and says what is wrong with it", () => {
    const file = join(directory, "plan.json");
    writeFileSync(file, JSON.stringify({ faults: [{ kind: "rescind", device: "scsi" }] }));
    expect(parse("--faults", file).faults).toMatchObject({ faults: [{ kind: "rescind" }] });
    writeFileSync(file, JSON.stringify({ faults: [{ kind: "nonsense" }] }));
    expect(() => parse("--faults", file)).toThrow(HostOptionError);
    expect(() => parse("--faults", join(directory, "none"))).toThrow(/ENOENT/);
  });

  test("--trace with its channels and data", () => {
    expect(parse("--trace", "t", "--trace-data", "512").trace).toEqual({
      path: "t",
      dataLimitBytes: 512,
    });
    expect(parse("--trace", "t", "--trace-channels", "scsi").trace?.channels).toBeDefined();
  });

  test("--control with a name or a path", () => {
    expect(parse("--control", "web").control).toBe("web");
    expect(parse("--control", "./a socket").control).toBe("./a socket");
  });

  test.each([
    [["--disk", ""]],
    [["--disk", ",ro"]],
    [["--disk", "a,controller=4"]],
    [["--disk", "a,controller="]],
    [["--disk", "a,io=fast"]],
    [["--disk", "a,ro,io="]],
    [["--ceiling", "9.9"]],
    [["--violations", "ignore"]],
    [["--trace-data", "5"]],
    [["--trace-channels", "scsi"]],
    [["--trace", "t", "--trace-data", "much"]],
    [["--control", ""]],
    [["--control", "a b"]],
  ])("%j is refused", (args) => {
    expect(() => parse(...args)).toThrow(HostOptionError);
  });

  test("every option is explained", () => {
    for (const name of Object.keys(hostOptions)) expect(hostOptionsUsage).toContain(`--${name} `);
  });

  test("sizes", () => {
    expect([parseMemorySize("--memory", "64M"), parseMemorySize("--memory", "1g")]).toEqual([
      2 ** 26,
      2 ** 30,
    ]);
    for (const wrong of ["", "64", "64MB", "-1M", "1.5G"])
      expect(() => parseMemorySize("--memory", wrong)).toThrow(/--memory/);
  });
});
