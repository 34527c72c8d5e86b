import vectorFile from "./vectors/kvp.json" with { type: "json" };

/** Bytes of the pipe framing and of the header of integration components. */
const HEADER_BYTES = 28;

export const { structs } = vectorFile;

/** The bytes of a vector by its number in the reference. */
export function vector(id: string): Uint8Array {
  const found = vectorFile.vectors.find((one) => one.id === id)!;
  const bytes = new Uint8Array(found.bytes);
  for (const { at, hex } of found.parts) bytes.set(Buffer.from(hex, "hex"), at);
  return bytes;
}

/** The body of a packet. */
export function body(id: string): Uint8Array {
  return vector(id).subarray(HEADER_BYTES);
}
