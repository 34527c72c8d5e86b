import { once } from "node:events";
import { chmodSync, linkSync, lstatSync, mkdtempSync, renameSync, rmSync } from "node:fs";
import { connect, type Server } from "node:net";
import { dirname, join } from "node:path";
import { ControlError } from "../control/control-error.js";
import { fitsSocket } from "./control-address.js";

/** How often a path is cleared before somebody is taken to put sockets there all the time. */
const ATTEMPTS = 3;

/** What is at a path that no dead socket is at. */
export type Occupant =
  | "nobody"
  /** A socket on which somebody listens. */
  | "listener"
  /** Something else than a socket. */
  | "file";

/** The path of a unix socket, taken for a server that listens there. */
export class ControlSocket {
  readonly path: string;
  readonly #identity: string;

  private constructor(path: string, identity: string) {
    this.path = path;
    this.#identity = identity;
  }

  /**
   * Has a server listen at a path that only this user may connect to; a dead socket is replaced. Whoever finds
   * the socket there finds it listened on, with its permissions.
   *
   * Rejects with `ERR_CONTROL_IN_USE` if somebody else listens there or something else is there, with
   * `ERR_CONTROL_ADDRESS` if there can be no socket; the server does not listen then.
   */
  static async claim(path: string, server: Server): Promise<ControlSocket> {
    try {
      return await inWorkshop(path, async (workshop) => {
        const made = join(workshop, "s");
        if (!fitsSocket(made))
          throw new ControlError(
            "ERR_CONTROL_ADDRESS",
            `${dirname(path)}: the name is too long for a unix socket in it`,
          );
        server.listen(made);
        await once(server, "listening");
        chmodSync(made, 0o600);
        const identity = identityOf(made)!;
        for (let attempt = 0; attempt < ATTEMPTS; attempt++) {
          if (isLinked(made, path)) return new ControlSocket(path, identity);
          const occupant = await removeDead(path);
          if (occupant !== "nobody") throw inUse(path, occupant);
        }
        throw inUse(path, "listener");
      });
    } catch (error) {
      server.close();
      if (error instanceof ControlError) throw error;
      throw new ControlError("ERR_CONTROL_ADDRESS", (error as Error).message, { cause: error });
    }
  }

  /** Removes the socket, unless another one has taken its place. */
  release(): void {
    if (identityOf(this.path) === this.#identity) rmSync(this.path, { force: true });
  }
}

/** Removes the socket at a path if nobody listens on it. @returns What is there now. */
export async function removeDead(path: string): Promise<Occupant> {
  const found = lstatSync(path, { throwIfNoEntry: false });
  if (found === undefined) return "nobody";
  if (!found.isSocket()) return "file";
  const identity = identityOf(path);
  if (await isListening(path)) return "listener";
  await inWorkshop(path, (workshop) => {
    // By now a live one may have taken its place: it is looked at where nobody else takes it for the dead one.
    const moved = join(workshop, "s");
    try {
      renameSync(path, moved);
      if (identityOf(moved) !== identity) linkSync(moved, path);
    } catch (error) {
      const { code } = error as NodeJS.ErrnoException;
      if (code !== "ENOENT" && code !== "EEXIST") throw error;
    }
  });
  return "nobody";
}

/** Runs `work` with a new directory beside a path that nobody else may enter, and that is gone afterwards. */
async function inWorkshop<Result>(
  path: string,
  work: (workshop: string) => Result | Promise<Result>,
): Promise<Result> {
  const workshop = mkdtempSync(join(dirname(path), ".hv-"));
  try {
    return await work(workshop);
  } finally {
    rmSync(workshop, { recursive: true, force: true });
  }
}

/** Of a file, whatever its name; inode numbers alone are used again. */
function identityOf(path: string): string | undefined {
  const found = lstatSync(path, { bigint: true, throwIfNoEntry: false });
  return found && `${found.dev}:${found.ino}:${found.mtimeNs}`;
}

async function isListening(path: string): Promise<boolean> {
  const socket = connect(path);
  try {
    await once(socket, "connect");
    return true;
  } catch (error) {
    // Any other error (a full queue, no permission) comes from somebody who is there.
    const { code = "" } = error as NodeJS.ErrnoException;
    return !["ECONNREFUSED", "ENOENT"].includes(code);
  } finally {
    socket.destroy();
  }
}

/** @returns False if something is at the new name. */
function isLinked(path: string, name: string): boolean {
  try {
    linkSync(path, name);
    return true;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "EEXIST") return false;
    throw error;
  }
}

function inUse(path: string, occupant: Exclude<Occupant, "nobody">): ControlError {
  const detail =
    occupant === "listener"
      ? "a machine that runs has this control socket: stop it, or give another name or path"
      : "is there and no socket: it is not replaced";
  return new ControlError("ERR_CONTROL_IN_USE", `${path}: ${detail}`);
}
