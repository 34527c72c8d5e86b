import { DeviceClass, type Guid } from "@hyperv-is/vmbus-core/protocol";

/** A table of constants whose keys are their names. */
export type NameTable = Readonly<Record<string, number>>;

const inverted = new WeakMap<NameTable, ReadonlyMap<number, string>>();

function namesOf(table: NameTable): ReadonlyMap<number, string> {
  let names = inverted.get(table);
  if (names === undefined) {
    names = new Map(Object.entries(table).map(([name, value]) => [value, name]));
    inverted.set(table, names);
  }
  return names;
}

/** "0x1f". */
export function hex(value: number | bigint): string {
  return `0x${value.toString(16)}`;
}

const digits: readonly string[] = Array.from({ length: 256 }, (_, byte) =>
  byte.toString(16).padStart(2, "0"),
);

/** Bytes as hexadecimal digits, two each. */
export function hexBytes(bytes: Uint8Array): string {
  let text = "";
  for (const byte of bytes) text += digits[byte]!;
  return text;
}

/** The words of a name in camel case: `readCapacity16` has "read", "Capacity16". */
function words(name: string): string[] {
  return name.split(/(?=[A-Z])/);
}

/** Name of a constant as a C header would write it, `INVALID_LUN`; hexadecimal digits if it has none. */
export function constantName(table: NameTable, value: number): string {
  const name = namesOf(table).get(value);
  return name === undefined ? hex(value) : words(name).join("_").toUpperCase();
}

/** Name of a constant as a standard's text would write it, `LBA OUT OF RANGE`; undefined if it has none. */
export function standardName(table: NameTable, value: number): string | undefined {
  const name = namesOf(table).get(value);
  return name === undefined ? undefined : words(name).join(" ").toUpperCase();
}

/** The same of a SCSI command: a number at the end is its length, `READ(10)`. */
export function commandName(table: NameTable, value: number): string | undefined {
  return standardName(table, value)?.replace(/(\d+)$/, "($1)");
}

/** Names of the bits that are set, joined by "|"; "0" if none is. */
export function flagNames(table: NameTable, value: number): string {
  const names: string[] = [];
  let rest = value;
  for (const [bits, name] of namesOf(table)) {
    if (bits === 0 || (rest & bits) !== bits) continue;
    names.push(words(name).join("_").toUpperCase());
    rest &= ~bits;
  }
  if (rest !== 0 || names.length === 0) names.push(rest === 0 ? "0" : hex(rest >>> 0));
  return names.join("|");
}

const classNames: ReadonlyMap<Guid, string> = new Map(
  Object.entries(DeviceClass).map(([name, { classId }]) => [classId, name]),
);

/** Name of a device class as `DeviceClass` has it; undefined for an unknown one. */
export function className(classId: Guid): string | undefined {
  return classNames.get(classId);
}
