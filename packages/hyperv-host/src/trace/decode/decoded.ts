/** A value as it is shown: numbers that count are numbers, everything else is text. */
export type DecodedValue = string | number | boolean;

/** What a message or packet says. */
export type DecodedFields = Readonly<Record<string, DecodedValue>>;

/** A message or packet with its name. */
export interface Decoded {
  /** As the protocol calls it. */
  readonly name: string;
  readonly fields: DecodedFields;
}
