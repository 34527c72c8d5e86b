import { ImageError, type ImageErrorCode } from "./errors.js";
import { type Finding } from "./finding.js";

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

/** A ruined block table has as many findings as entries; nobody reads more than this. */
const MAX_FINDINGS = 1000;

/** Checking: everything is added to `findings`, up to a bound whose last finding says so. */
export function collecting(findings: Finding[]): Reporter {
  const add = (finding: Finding): void => {
    if (findings.length < MAX_FINDINGS) findings.push(finding);
    else if (findings.length === MAX_FINDINGS)
      findings.push({ ...finding, text: `${finding.text}; and more, which are not listed` });
  };
  return {
    error: (_code, structure, offset, text) => add({ severity: "error", structure, offset, text }),
    warning: (structure, offset, text) => add({ severity: "warning", structure, offset, text }),
  };
}
