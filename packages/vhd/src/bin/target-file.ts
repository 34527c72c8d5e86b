import {
  closeSync,
  existsSync,
  fsyncSync,
  openSync,
  realpathSync,
  renameSync,
  rmSync,
} from "node:fs";
import { basename, dirname, join } from "node:path";
import { setImmediate } from "node:timers/promises";
import { ImageError } from "../errors.js";
import { fileError } from "../node/file-error.js";
import { openFile } from "../node/open.js";

const stopSignals = ["SIGINT", "SIGTERM", "SIGHUP"] as const;

/**
 * Makes a file under a temporary name beside its place, and moves it there when it is whole and durable.
 *
 * Whatever fails, and whatever signal comes, the place is as it was before. A signal then ends the
 * process as it would have done.
 *
 * @param make - Makes the file; awaits `pause` between the steps of long work, where signals stop it.
 */
export async function makeTarget<Result>(
  path: string,
  force: boolean,
  make: (temporaryPath: string, pause: () => Promise<void>) => Promise<Result>,
): Promise<Result> {
  if (existsSync(path) && !force)
    throw new ImageError("ERR_IMAGE_FILE", {
      structure: path,
      text: "there is a file already",
      advice: "Choose another name, or replace it with --force.",
    });
  // A file that is replaced must be in nobody's use; its lock says so, and is held until it is gone.
  const replaced = existsSync(path) ? await openFile(path) : undefined;
  const place = replaced === undefined ? path : realpathSync(path);
  const temporaryPath = join(dirname(place), `.${basename(place)}.${process.pid}.tmp`);
  let stopped: NodeJS.Signals | undefined;
  const stop = (signal: NodeJS.Signals): void => void (stopped ??= signal);
  for (const signal of stopSignals) process.on(signal, stop);
  try {
    const result = await make(temporaryPath, async () => {
      await setImmediate();
      if (stopped !== undefined) throw new Error(`stopped by ${stopped}`);
    });
    sync(temporaryPath);
    try {
      renameSync(temporaryPath, place);
    } catch (error) {
      throw fileError(error, place, "replacing");
    }
    sync(dirname(place));
    return result;
  } catch (error) {
    if (error instanceof ImageError) error.message = error.message.replaceAll(temporaryPath, path);
    throw error;
  } finally {
    rmSync(temporaryPath, { force: true });
    replaced?.close();
    for (const signal of stopSignals) process.off(signal, stop);
    if (stopped !== undefined) process.kill(process.pid, stopped);
  }
}

function sync(path: string): void {
  const descriptor = openSync(path, "r");
  try {
    fsyncSync(descriptor);
  } finally {
    closeSync(descriptor);
  }
}
