import { type BlockFile } from "../block-file.js";
import { ImageError } from "../errors.js";
import { randomGuid, ZERO_GUID } from "../guid.js";
import { type Random } from "../random.js";
import { type HeaderSlots } from "./header.js";
import { Journal, type JournalOptions } from "./journal.js";
import { MIB, roundUp } from "./layout.js";

/**
 * What stands between an image and its first change: the headers and the log are made ready in the
 * order that the format asks for, once, and put to rest when the image is closed.
 */
export class WriteSession {
  readonly #file: BlockFile;
  readonly #headers: HeaderSlots;
  readonly #random: Random;
  #fileGuidIsNew = false;
  #dataGuidIsNew = false;
  #journal: Journal | undefined;

  constructor(file: BlockFile, headers: HeaderSlots, random: Random) {
    this.#file = file;
    this.#headers = headers;
    this.#random = random;
  }

  /** Precedes any change of the file at all, replaying its log included. */
  announce(): void {
    if (this.#fileGuidIsNew) return;
    this.#headers.update({ fileWriteGuid: randomGuid(this.#random) });
    this.#fileGuidIsNew = true;
  }

  /** What the log said is durable in place: it is empty from now on. */
  emptyLog(): void {
    this.#headers.updateBoth({ logGuid: ZERO_GUID });
  }

  /**
   * Precedes changes of metadata (`guestVisible` false) or of what the guest sees (true).
   *
   * @param needsBytes - How long the file has to be for what its metadata says; it is extended.
   * @param render - See `JournalOptions`; the first call's is kept.
   */
  begin(guestVisible: boolean, needsBytes: number, render: JournalOptions["render"]): Journal {
    const newDataGuid =
      guestVisible && !this.#dataGuidIsNew
        ? { dataWriteGuid: randomGuid(this.#random) }
        : undefined;
    let journal = this.#journal;
    if (journal === undefined) {
      const { logBytes, logOffset } = this.#headers.current;
      if (logBytes === 0)
        throw new ImageError("ERR_IMAGE_UNSUPPORTED", {
          structure: "header",
          offset: this.#headers.offset,
          text: "the image has no log, so its metadata cannot be changed safely",
        });
      this.announce();
      const fileBytes = roundUp(Math.max(this.#file.sizeBytes, needsBytes), MIB);
      if (fileBytes > this.#file.sizeBytes) this.#file.truncate(fileBytes);
      const logGuid = randomGuid(this.#random);
      journal = new Journal(this.#file, { logOffset, logBytes, logGuid, render });
      journal.start();
      // With an older header alone, the entries that are not yet in place would be lost.
      this.#headers.updateBoth({ logGuid, ...newDataGuid });
      this.#journal = journal;
    } else if (newDataGuid !== undefined) {
      this.#headers.updateBoth(newDataGuid);
    }
    this.#dataGuidIsNew ||= guestVisible;
    return journal;
  }

  /** Leaves everything in place and the log empty. */
  end(): void {
    if (this.#journal === undefined) return;
    this.#journal.finish();
    this.emptyLog();
    this.#journal = undefined;
  }
}
