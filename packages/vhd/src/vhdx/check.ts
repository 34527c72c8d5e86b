import { type BlockFile } from "../block-file.js";
import { type Finding } from "../finding.js";
import { readBody, readHead } from "./image.js";
import { OverlayFile } from "./overlay-file.js";
import { type Reporter } from "./reporter.js";

/** A ruined BAT has as many findings as entries; nobody reads more than this. */
const MAX_FINDINGS = 1000;

/**
 * Looks at everything that a VHDX is made of and says what is wrong with it; an empty list is a clean
 * image. The file is not changed: a log that waits to be replayed is replayed in memory, and shows as a
 * warning. Goes on after an error as long as what follows still means something.
 */
export function checkVhdx(file: BlockFile): Finding[] {
  const findings: Finding[] = [];
  const add = (finding: Finding): void => {
    if (findings.length < MAX_FINDINGS) findings.push(finding);
    else if (findings.length === MAX_FINDINGS)
      findings.push({ ...finding, text: `${finding.text}; and more, which are not listed` });
  };
  const reporter: Reporter = {
    error: (_code, structure, offset, text) => add({ severity: "error", structure, offset, text }),
    warning: (structure, offset, text) => add({ severity: "warning", structure, offset, text }),
  };
  const head = readHead(file, reporter);
  if (head === undefined) return findings;
  let replayed = file;
  if (head.log !== undefined) {
    const { reader, active } = head.log;
    const { logOffset } = head.headers.current;
    replayed = new OverlayFile(file);
    reader.replay(active, replayed);
    reporter.warning(
      "log",
      logOffset + active.tail,
      `${active.entries} entries wait to be replayed; opening the image for writing does it`,
    );
  }
  readBody(replayed, head.headers, reporter);
  return findings;
}
