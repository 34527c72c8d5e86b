import { describe, expect, test } from "vitest";
import { bindChannelCpu, type BindingEra } from "@hyperv-is/vmbus-core";
import { DeviceClass } from "@hyperv-is/vmbus-core/protocol";

const { network, scsi, ide, kvp: keyValue } = DeviceClass;

/** CPUs of channels in the order of their binding. */
function bindAll(
  era: BindingEra,
  cpus: number,
  channels: readonly (readonly [classId: string, subChannelIndex: number, base?: number])[],
): number[] {
  let counter = 0;
  return channels.map(([classId, subChannelIndex, base = 0]) => {
    const binding = bindChannelCpu(era, { classId, subChannelIndex, base }, counter, cpus);
    counter = binding.counter;
    return binding.cpu;
  });
}

const kvp = keyValue.classId;
const boot = [
  [scsi.classId, 0],
  [kvp, 0],
  [network.classId, 0, 0],
  [ide.classId, 0],
  [scsi.classId, 1],
  [network.classId, 1, 2],
  [network.classId, 2, 2],
] as const;

describe("which CPU a channel is bound to", () => {
  test("FreeBSD 10.1: the first", () => {
    expect(bindAll("freebsd-10.1", 4, boot)).toEqual([0, 0, 0, 0, 0, 0, 0]);
  });

  test("FreeBSD 10.2: disks and networks in turn from the second on, the rest on the first", () => {
    expect(bindAll("freebsd-10.2", 4, boot)).toEqual([1, 0, 2, 3, 0, 1, 2]);
  });

  test("FreeBSD 11: disks in turn from the first on, networks side by side, the rest on the first", () => {
    expect(bindAll("freebsd-11", 4, boot)).toEqual([0, 0, 0, 1, 2, 3, 0]);
  });

  test.each(["freebsd-10.1", "freebsd-10.2", "freebsd-11"] as const)(
    "%s: one CPU takes all",
    (era) => {
      expect(new Set(bindAll(era, 1, boot))).toEqual(new Set([0]));
    },
  );
});
