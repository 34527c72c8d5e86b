import { ImageError, type ImageErrorCode } from "../errors.js";

/**
 * Who hears of a broken rule while a structure is read.
 *
 * Readers go on after `error` where what follows still means something, and otherwise return
 * `undefined`; with `refusing` they never get that far.
 */
export interface Reporter {
  /** The image cannot be used. `offset` is bytes from the start of the file. */
  error(code: ImageErrorCode, structure: string, offset: number, text: string): void;
  /** A rule is broken without consequence for the data. */
  warning(structure: string, offset: number, text: string): void;
}

/** Opening: the first error is thrown as an `ImageError`, warnings do not matter. */
export const refusing: Reporter = {
  error(code, structure, offset, text) {
    throw new ImageError(code, { structure, offset, text });
  },
  warning() {
    // Nothing to refuse.
  },
};
