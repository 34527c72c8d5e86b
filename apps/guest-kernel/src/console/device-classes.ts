import { DeviceClass } from "@hyperv-is/vmbus-core/protocol";

/** `[Key-Value Pair Exchange]`: what Linux's lsvmbus calls a class of devices. */
export function classOf(classId: string): string {
  const row = Object.values(DeviceClass).find((candidate) => candidate.classId === classId);
  return row === undefined ? "Unknown" : `[${row.name}]`;
}
