import { once } from "node:events";
import { chmodSync, linkSync, lstatSync, mkdtempSync, renameSync, rmSync } from "node:fs";
import { connect, type Server } from "node:net";
import { dirname, join } from "node:path";
import { PlatformError } from "./errors.js";

/** Bytes that `sun_path` has room for, its terminator not counted. */
const PATH_LIMIT_BYTES = process.platform === "linux" ? 107 : 103;

/** How often a path is cleared before somebody is taken to put sockets there all the time. */
const ATTEMPTS = 3;

/** What is at a path that no dead socket is at. */
export type SocketOccupant =
  | "nobody"
  /** A socket on which somebody listens. */
  | "listener"
  /** Something else than a socket. */
  | "file";

/** True if a unix socket can have this path: Node cuts a longer one off. */
export function isSocketPath(path: string): boolean {
  return Buffer.byteLength(path) <= PATH_LIMIT_BYTES;
}

/** The path of a unix socket that only this user may connect to, taken for a server that listens there. */
export class PrivateSocket {
  readonly path: string;
  readonly #identity: string;

  private constructor(path: string, identity: string) {
    this.path = path;
    this.#identity = identity;
  }

  /**
   * Has a server listen at a path. A socket that a program which is gone has left there is replaced; nothing else
   * is, and no link is followed. Whoever finds the socket there finds it listened on, with its permissions.
   *
   * Rejects with `PlatformError`: `ERR_SOCKET_IN_USE` if somebody listens there or something else is there,
   * `ERR_SOCKET_PATH` if there can be no socket. The server does not listen then.
   */
  static async claim(path: string, server: Server): Promise<PrivateSocket> {
    try {
      return await inWorkshop(path, async (workshop) => {
        const made = join(workshop, "s");
        if (!isSocketPath(made) || !isSocketPath(path))
          throw new PlatformError("ERR_SOCKET_PATH", `${path}: too long for a socket's path`);
        server.listen(made);
        await once(server, "listening");
        chmodSync(made, 0o600);
        const identity = identityOf(made)!;
        for (let attempt = 0; attempt < ATTEMPTS; attempt++) {
          if (isLinked(made, path)) return new PrivateSocket(path, identity);
          const occupant = await removeDeadSocket(path);
          if (occupant !== "nobody") throw inUse(path, occupant);
        }
        throw inUse(path, "listener");
      });
    } catch (error) {
      server.close();
      if (error instanceof PlatformError) throw error;
      const { code, message } = error as NodeJS.ErrnoException;
      const isMissing = code === "ENOENT" || code === "ENOTDIR";
      const what = isMissing ? `${path}: there is no directory ${dirname(path)}` : message;
      throw new PlatformError("ERR_SOCKET_PATH", what, { cause: error });
    }
  }

  /** Removes the socket, unless another one has taken its place. */
  release(): void {
    if (identityOf(this.path) === this.#identity) rmSync(this.path, { force: true });
  }
}

/** Removes the socket at a path if nobody listens on it. @returns What is there now. */
export async function removeDeadSocket(path: string): Promise<SocketOccupant> {
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
  const workshop = mkdtempSync(join(dirname(path), ".s"));
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

function inUse(path: string, occupant: Exclude<SocketOccupant, "nobody">): PlatformError {
  const detail =
    occupant === "listener" ? "another program serves there" : "is there, and is no socket";
  return new PlatformError("ERR_SOCKET_IN_USE", `${path}: ${detail}`);
}
