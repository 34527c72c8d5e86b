import { type BlockFile } from "../block-file.js";
import { type Finding } from "../finding.js";
import { collecting } from "../reporter.js";
import { readBody, readHead } from "./image.js";
import { OverlayFile } from "./overlay-file.js";

/**
 * Looks at everything that a VHDX is made of and says what is wrong with it; an empty list is a clean
 * image. The file is not changed: a log that waits to be replayed is replayed in memory, and shows as a
 * warning. Goes on after an error as long as what follows still means something.
 */
export function checkVhdx(file: BlockFile): Finding[] {
  const findings: Finding[] = [];
  const reporter = collecting(findings);
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
