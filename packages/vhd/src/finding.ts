/**
 * One thing that a check found wrong with an image.
 *
 * An `error` means that data is lost, or can be lost by the next writer; a `warning` that a rule is
 * broken without consequence for the data (a torn copy that opening for writing repairs, space that
 * nothing owns).
 */
export interface Finding {
  readonly severity: "error" | "warning";
  /** The structure at fault, in the words of its format: `footer`, `BAT entry 7`. */
  readonly structure: string;
  /** Bytes from the start of the file. */
  readonly offset: number;
  /** The rule that was broken, with the values seen. */
  readonly text: string;
}
