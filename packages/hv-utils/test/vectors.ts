import vectorFile from "./vectors/integration-components.json" with { type: "json" };

interface Vector {
  readonly id: string;
  readonly title: string;
  /** Length of the payload. */
  readonly bytes: number;
  /** Its bytes up to the last that is not zero. */
  readonly hex: string;
}

const vectors: readonly Vector[] = vectorFile.vectors;

/** The structures of the reference: size, and offset and width of each field. */
export const structures: Readonly<
  Record<string, { readonly size: number; readonly fields: Readonly<Record<string, number[]>> }>
> = vectorFile.structs;

/** The ids of all vectors. */
export const vectorIds: readonly string[] = vectors.map(({ id }) => id);

/** The payload of a packet of the reference, pipe framing included. */
export function vector(id: string): Uint8Array {
  const found = vectors.find((one) => one.id === id)!;
  const bytes = new Uint8Array(found.bytes);
  bytes.set(Buffer.from(found.hex, "hex"));
  return bytes;
}
