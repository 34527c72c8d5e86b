import { expect, test } from "vitest";
import { KERNEL_INTERFACE, type DriverModule } from "@hyperv-is/vmbus-core";
import manifest from "../package.json" with { type: "json" };
import { senseText, type StorvscController, type StorvscQueueHalf } from "../src/index.js";
import * as file from "../src/module.js";
import { StorageClassId } from "../src/protocol/index.js";

test("the module is what a kernel loads", () => {
  const module: DriverModule<StorvscQueueHalf, StorvscController> = file;
  expect(module).toMatchObject({
    name: "hv_storvsc",
    version: manifest.version,
    kernelInterface: KERNEL_INTERFACE,
    deviceName: "storvsc",
  });
  // In tree the same comes as one object.
  expect({ ...file, driver: undefined }).toEqual({ ...file.driver, driver: undefined });
});

test("it serves SCSI and IDE controllers, in FreeBSD's words, and nothing else", () => {
  expect(file.probe(StorageClassId.scsi)).toBe("Hyper-V SCSI");
  expect(file.probe(StorageClassId.ide)).toBe("Hyper-V IDE");
  expect(file.probe(StorageClassId.fibreChannel)).toBeUndefined();
  expect(file.probe("f8615163-df3e-46c5-913f-f2d2f965ed0e")).toBeUndefined();
});

test("sense data as text", () => {
  const text = (key: number, additionalSense: number, deferred = false): string =>
    senseText({ key, additionalSense, deferred });
  expect(text(5, 0x2100)).toBe("illegal request, logical block address out of range (5/21/00)");
  expect(text(7, 0x2707)).toBe("data protect, space allocation failed (7/27/07)");
  expect(text(6, 0x2a09)).toBe("unit attention, capacity data has changed (6/2A/09)");
  expect(text(0xb, 0x1234)).toBe("aborted command (B/12/34)");
  expect(text(0xc, 0, true)).toBe("of an earlier command, reserved key (C/00/00)");
});
