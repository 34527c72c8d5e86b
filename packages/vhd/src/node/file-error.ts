import { ImageError } from "../errors.js";

/** A signal came first: the call may be made again. */
export function isInterrupted(error: unknown): boolean {
  return (error as NodeJS.ErrnoException).code === "EINTR";
}

/** What the system says about a file, as an `ImageError` that names the file. */
export function fileError(
  error: unknown,
  path: string,
  doing: string,
  offset?: number,
): ImageError {
  const { code = "", message } = error as NodeJS.ErrnoException;
  if (code === "ENOSPC" || code === "EDQUOT" || code === "EFBIG") {
    const limit = code === "EFBIG" ? "the file system allows no larger file" : "no space is left";
    const text = `${doing} failed, ${limit} (${code})`;
    return new ImageError("ERR_IMAGE_NO_SPACE", { structure: path, offset, text, cause: error });
  }
  const text = `${doing} failed: ${reasons[code] ?? message}`;
  return new ImageError("ERR_IMAGE_FILE", { structure: path, offset, text, cause: error });
}

/** System errors in a user's words. */
const reasons: Readonly<Record<string, string | undefined>> = {
  ENOENT: "there is no such file or directory (ENOENT)",
  ENOTDIR: "a part of the path is no directory (ENOTDIR)",
  EACCES: "permission denied (EACCES)",
  EPERM: "operation not permitted (EPERM)",
  EROFS: "the file system is read-only (EROFS)",
  EEXIST: "it exists already (EEXIST)",
  EIO: "input/output error (EIO)",
  ELOOP: "too many symbolic links (ELOOP)",
  EMFILE: "too many open files (EMFILE)",
};
