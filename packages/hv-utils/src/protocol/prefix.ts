import type { WireRecord } from "@hyperv-is/vmbus-core/protocol";

/** Parses a structure of which the first `leastBytes` must be there; what is missing behind them reads as zero. */
export function parsePrefix<T>(
  structure: WireRecord<T>,
  body: Uint8Array,
  leastBytes: number,
): T | undefined {
  if (body.byteLength >= structure.SIZE) return structure.parse(body);
  if (body.byteLength < leastBytes) return undefined;
  const whole = new Uint8Array(structure.SIZE);
  whole.set(body);
  return structure.parse(whole);
}
