import { resolve } from "node:path";
import { describe, expect, test } from "vitest";
import { parseNbdExport } from "@hyperv-is/guest-kernel";
import { checkExport, exportUri } from "../src/nbd/export-address.js";

describe("an export as it is written on the command line", () => {
  test.each([
    ["da0=unix:/run/da0.sock", { disk: "da0", unix: "/run/da0.sock" }],
    ["da0=unix:da0.sock", { disk: "da0", unix: resolve("da0.sock") }],
    ["da1=unix:/a=b:c", { disk: "da1", unix: "/a=b:c" }],
    ["da12=tcp:127.0.0.1:10809", { disk: "da12", host: "127.0.0.1", port: 10809 }],
    ["da0=127.0.0.2:0", { disk: "da0", host: "127.0.0.2", port: 0 }],
    ["da0=localhost:10809", { disk: "da0", host: "127.0.0.1", port: 10809 }],
    ["da0=tcp:[::1]:10809", { disk: "da0", host: "::1", port: 10809 }],
  ])("%s", (text, options) => {
    const { disk, ...place } = options;
    const address = "unix" in place ? { unix: resolve(place.unix) } : place;
    expect(parseNbdExport(text)).toEqual({ disk, ...address });
  });

  test.each([
    ["da0", "write it as"],
    ["=unix:/x", "write it as"],
    ["da0=", "write it as"],
    ["da0=unix:", "write it as"],
    ["da0=10809", "write it as"],
    ["da0=127.0.0.1:", "write it as"],
    ["da0=127.0.0.1:65536", "write it as"],
    ["da0=::1:10809", "write it as"],
    ["da0=0.0.0.0:10809", "loopback addresses only"],
    ["da0=tcp:192.168.1.2:10809", "loopback addresses only"],
    ["da0=[::]:10809", "loopback addresses only"],
    ["da0=127.0.0.1.example.org:10809", "loopback addresses only"],
  ])("%s is refused", (text, message) => {
    expect(() => parseNbdExport(text)).toThrow(
      expect.objectContaining({
        code: "ERR_NBD",
        message: expect.stringContaining(message) as string,
      }),
    );
  });
});

test("an export of the library is checked alike, and has defaults", () => {
  expect(checkExport({ disk: "da0", port: 10809 })).toEqual({
    disk: "da0",
    host: "127.0.0.1",
    port: 10809,
  });
  for (const port of [-1, 65536, 1.5, NaN])
    expect(() => checkExport({ disk: "da0", port })).toThrow(`${port} is no port`);
  expect(() => checkExport({ disk: "da0", host: "::", port: 1 })).toThrow("loopback");
});

test("clients get a URI", () => {
  expect(exportUri("da0", { unix: "/run/a b.sock" })).toBe(
    "nbd+unix:///da0?socket=/run/a%20b.sock",
  );
  expect(exportUri("da1", { host: "127.0.0.1", port: 5 })).toBe("nbd://127.0.0.1:5/da1");
  expect(exportUri("da1", { host: "::1", port: 5 })).toBe("nbd://[::1]:5/da1");
});
