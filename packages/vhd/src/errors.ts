/**
 * What can go wrong with an image, as a stable code:
 *
 * - `ERR_IMAGE_CORRUPT`: a structure breaks a rule of its format.
 * - `ERR_IMAGE_TRUNCATED`: the file ends before something that must be in it.
 * - `ERR_IMAGE_FOREIGN`: the file is no VHD and no VHDX (raw, or another format).
 * - `ERR_IMAGE_READ_ONLY`: a change was asked of an image, or of a file, that may not be changed.
 * - `ERR_IMAGE_LOCKED`: another opener has the image for writing.
 * - `ERR_IMAGE_POISONED`: an earlier write of metadata failed, so the image takes no more calls.
 * - `ERR_IMAGE_UNSUPPORTED`: well formed, but a feature, version or size that this package does not handle.
 * - `ERR_IMAGE_INCOMPLETE`: the image was never finished by the program that made it.
 * - `ERR_IMAGE_NO_SPACE`: the file system below is full; what was flushed before is safe.
 * - `ERR_IMAGE_FILE`: the file below cannot be opened or used (missing, a directory, no permission, an
 *   I/O error); `cause` is the system's error.
 */
export type ImageErrorCode =
  | "ERR_IMAGE_CORRUPT"
  | "ERR_IMAGE_TRUNCATED"
  | "ERR_IMAGE_FOREIGN"
  | "ERR_IMAGE_READ_ONLY"
  | "ERR_IMAGE_LOCKED"
  | "ERR_IMAGE_POISONED"
  | "ERR_IMAGE_UNSUPPORTED"
  | "ERR_IMAGE_INCOMPLETE"
  | "ERR_IMAGE_NO_SPACE"
  | "ERR_IMAGE_FILE";

/** What to do next, where the place that throws knows nothing better. */
const advice: Readonly<Record<ImageErrorCode, string>> = {
  ERR_IMAGE_CORRUPT: "Run 'vhd check' for everything that is wrong, and restore from a copy.",
  ERR_IMAGE_TRUNCATED: "The file was cut or not copied to its end: copy it again.",
  ERR_IMAGE_FOREIGN: "Convert it first: 'vhd convert --from raw SOURCE TARGET'.",
  ERR_IMAGE_READ_ONLY: "Open it for writing, and check who may write the file.",
  ERR_IMAGE_LOCKED: "Close it there first; only 'vhd info' reads an image in use.",
  ERR_IMAGE_POISONED: "Close it, look after the first error, then open it again.",
  ERR_IMAGE_UNSUPPORTED: "Convert it with the program that made it.",
  ERR_IMAGE_INCOMPLETE: "Make the image again; it holds no usable disk.",
  ERR_IMAGE_NO_SPACE: "Free some space and try again; what was flushed before is safe.",
  ERR_IMAGE_FILE: "Check the path, its permissions and its file system.",
};

/** Where and why; see `ImageError`. */
export interface ImageFault {
  /** The rule that was broken, with the values seen: a clause without a full stop. */
  readonly text: string;
  /** The structure at fault, in the words of its format: `footer`, `dynamic header`, `region table 1`. */
  readonly structure?: string | undefined;
  /** Where the structure, or the field in it, lies: bytes from the start of the file. */
  readonly offset?: number | undefined;
  /** What to do next, as a whole sentence; without it the code's general advice is given. */
  readonly advice?: string | undefined;
  /** The error below, where there is one. */
  readonly cause?: unknown;
}

/**
 * Every error that this package throws on purpose.
 *
 * `code` is stable; `structure` and `offset` say where; the message says all of that and what to do
 * next, is for people, and may change.
 */
export class ImageError extends Error {
  override readonly name = "ImageError";
  readonly code: ImageErrorCode;
  readonly structure: string | undefined;
  /** Bytes from the start of the file. */
  readonly offset: number | undefined;

  constructor(code: ImageErrorCode, fault: ImageFault) {
    const { structure, offset, text } = fault;
    const place = [structure, offset === undefined ? undefined : `at file offset ${offset}`]
      .filter((part) => part !== undefined)
      .join(" ");
    super(
      `${place === "" ? "" : `${place}: `}${text}. ${fault.advice ?? advice[code]}`,
      fault.cause === undefined ? undefined : { cause: fault.cause },
    );
    this.code = code;
    this.structure = structure;
    this.offset = offset;
  }
}
