import { assert } from "./assertion.js";
import { ImageError } from "./errors.js";
import { type FlushSteps } from "./flush-steps.js";

/**
 * What an open image may still do: what it was opened for, nothing after a change that failed half-way,
 * nothing once it is closed.
 */
export class ImageState {
  readonly readOnly: boolean;
  #usable = true;
  #closed = false;
  #flushing = false;
  #poison: unknown;

  constructor(readOnly: boolean) {
    this.readOnly = readOnly;
  }

  /** Precedes every call. @throws ImageError `ERR_IMAGE_POISONED` */
  assertUsable(): void {
    if (this.#usable) return;
    assert(!this.#closed, "the image is closed");
    throw new ImageError("ERR_IMAGE_POISONED", {
      text: "an earlier change of the image or a flush failed",
      cause: this.#poison,
    });
  }

  /** Precedes every change. @throws ImageError `ERR_IMAGE_READ_ONLY` */
  assertWritable(): void {
    if (this.readOnly)
      throw new ImageError("ERR_IMAGE_READ_ONLY", { text: "the image was opened read-only" });
  }

  /** Precedes every change of metadata. A flush that is on its way has to end first. */
  assertNotFlushing(): void {
    assert(!this.#flushing, "a flush is on its way");
  }

  /** Goes through a flush, after whose failure the image is poisoned. */
  *flushing(steps: FlushSteps): FlushSteps {
    this.assertNotFlushing();
    this.#flushing = true;
    try {
      yield* steps;
    } catch (error) {
      this.poison(error);
      throw error;
    } finally {
      this.#flushing = false;
    }
  }

  /** From now on what the file holds is unknown, because of `cause`, until it is opened again. */
  poison(cause: unknown): void {
    this.#usable = false;
    this.#poison = cause;
  }

  /** Runs a change after whose failure the image is poisoned. */
  orPoison(change: () => void): void {
    try {
      change();
    } catch (error) {
      this.poison(error);
      throw error;
    }
  }

  /** Runs the last changes, if the image can take any, and `release` in any case. */
  close(finish: () => void, release: () => void): void {
    try {
      this.assertUsable();
      this.assertNotFlushing();
      finish();
    } finally {
      this.#usable = false;
      if (!this.#closed) release();
      this.#closed = true;
    }
  }
}
