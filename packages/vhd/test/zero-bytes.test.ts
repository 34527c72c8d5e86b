import { expect, test } from "vitest";
import { zeroBytes } from "@hyperv-is/vhd";

test.each([
  [0, 0],
  [1, 2],
  [5, 516],
  [512, 1024],
  [513, 5000],
  [4096, 8192],
  [7, 70_000],
  [0, 200_000],
  [65_536, 196_608],
])("bytes %i to %i become zero, and no others", (from, to) => {
  const bytes = new Uint8Array(new SharedArrayBuffer(200_000)).fill(0xa5);
  zeroBytes(bytes, from, to);
  const wrong = bytes.findIndex((byte, at) => byte !== (at >= from && at < to ? 0 : 0xa5));
  expect(wrong).toBe(-1);
});
