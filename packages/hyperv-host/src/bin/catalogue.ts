// What can be said of the host without a machine.
import { readFileSync } from "node:fs";
import { deviceClasses, formatVersion, protocolVersions } from "@hyperv-is/vmbus-core/protocol";
import { standardDevices } from "../device-set.js";
import { FaultPlanError, faultKinds, parseFaultPlan } from "../fault-rules.js";
import { faultOperations, faultPoints } from "../faults.js";
import { textTable } from "./text-table.js";

function table(rows: readonly (readonly string[])[]): void {
  for (const line of textTable(rows)) process.stdout.write(`${line}\n`);
}

function print(json: boolean, value: unknown, rows: readonly (readonly string[])[]): number {
  if (json) process.stdout.write(`${JSON.stringify(value, null, 2)}\n`);
  else table(rows);
  return 0;
}

/** What the host offers to every machine. */
export function offers(json: boolean): number {
  const list = standardDevices(0).map(({ classId, instanceId }) => ({
    name: deviceClasses.find((row) => row.classId === classId)?.name ?? "unknown",
    classId,
    instanceId,
  }));
  return print(
    json,
    list,
    list.map((one) => [one.name, one.classId, one.instanceId]),
  );
}

/** The protocol versions that it speaks. */
export function versions(json: boolean): number {
  const list = protocolVersions.map(({ version }) => formatVersion(version));
  return print(
    json,
    list,
    list.map((version) => [version]),
  );
}

/** Checks a fault plan. */
export function checkFaults(path: string): number {
  try {
    const { faults } = parseFaultPlan(JSON.parse(readFileSync(path, "utf8")));
    process.stdout.write(
      `${path}: ${faults.length} fault${faults.length === 1 ? "" : "s"}, fine\n`,
    );
    return 0;
  } catch (error) {
    const lines = error instanceof FaultPlanError ? error.problems : [(error as Error).message];
    for (const line of lines) process.stderr.write(`${path}: ${line}\n`);
    return 1;
  }
}

/** The faults that it can be told to make. */
export function faults(json: boolean): number {
  const kinds = faultKinds.map((kind) => ({ kind, at: faultPoints[kind] }));
  if (json) return print(true, { kinds, operations: faultOperations }, []);
  table(kinds.map(({ kind, at }) => [kind, at]));
  process.stdout.write(`operations: ${faultOperations.join(" ")}\n`);
  return 0;
}
