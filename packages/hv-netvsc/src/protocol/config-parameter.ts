import { record, u32 } from "@hyperv-is/vmbus-core/protocol";

/** The header of a value of `genRndisConfigParameter`; offsets from its start. */
export const RndisConfigParameterFields = record({
  nameOffset: u32(0),
  nameBytes: u32(4),
  type: u32(8),
  valueOffset: u32(12),
  valueBytes: u32(16),
});

/** Types of a configuration parameter. */
export const ConfigParameterType = { integer: 0, string: 2 } as const;

/** Most bytes of a name, and of a string. */
export const CONFIG_PARAMETER_BYTES_MAX = 255;

/** A named setting of the adapter, `NetworkAddress` for instance. */
export interface RndisConfigParameter {
  readonly name: string;
  readonly value: number | string;
}

/** The parameter as a value of a SET. */
export function emitRndisConfigParameter(parameter: RndisConfigParameter): Uint8Array<ArrayBuffer> {
  const { name, value } = parameter;
  const nameOffset = RndisConfigParameterFields.SIZE;
  const nameBytes = name.length * 2;
  const valueOffset = nameOffset + nameBytes;
  const valueBytes = typeof value === "number" ? 4 : value.length * 2;
  const bytes = new Uint8Array(valueOffset + valueBytes);
  const type = typeof value === "number" ? ConfigParameterType.integer : ConfigParameterType.string;
  RndisConfigParameterFields.write(bytes, {
    nameOffset,
    nameBytes,
    type,
    valueOffset,
    valueBytes,
  });
  putUtf16(bytes, nameOffset, name);
  if (typeof value === "number") new DataView(bytes.buffer).setUint32(valueOffset, value, true);
  else putUtf16(bytes, valueOffset, value);
  return bytes;
}

/** Parses the value of a SET; undefined if a part does not lie inside, is too long, or has no known type. */
export function parseRndisConfigParameter(bytes: Uint8Array): RndisConfigParameter | undefined {
  const fields = RndisConfigParameterFields.parse(bytes);
  if (fields === undefined) return undefined;
  const name = utf16(bytes, fields.nameOffset, fields.nameBytes);
  if (name === undefined) return undefined;
  if (fields.type === ConfigParameterType.string) {
    const value = utf16(bytes, fields.valueOffset, fields.valueBytes);
    return value === undefined ? undefined : { name, value };
  }
  if (fields.type !== ConfigParameterType.integer || fields.valueBytes !== 4) return undefined;
  if (fields.valueOffset > bytes.byteLength - 4) return undefined;
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  return { name, value: view.getUint32(fields.valueOffset, true) };
}

function putUtf16(bytes: Uint8Array, at: number, text: string): void {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  for (let index = 0; index < text.length; index++)
    view.setUint16(at + index * 2, text.charCodeAt(index), true);
}

function utf16(bytes: Uint8Array, at: number, lengthBytes: number): string | undefined {
  if (lengthBytes > CONFIG_PARAMETER_BYTES_MAX || lengthBytes % 2 !== 0) return undefined;
  if (at > bytes.byteLength || lengthBytes > bytes.byteLength - at) return undefined;
  const view = new DataView(bytes.buffer, bytes.byteOffset + at, lengthBytes);
  const units = Array.from({ length: lengthBytes / 2 }, (_, index) =>
    view.getUint16(index * 2, true),
  );
  return String.fromCharCode(...units);
}
