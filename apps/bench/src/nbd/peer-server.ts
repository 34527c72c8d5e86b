import { spawn, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import { connect } from "node:net";
import { setTimeout as delay } from "node:timers/promises";
import { BenchmarkError } from "../benchmark.js";
import { versionOf } from "../peer-program.js";

const START_LIMIT_MS = 10_000;
const RETRY_MS = 20;

/** An NBD server of somebody else, on a unix socket. */
export class PeerServer implements AsyncDisposable {
  readonly uri: string;
  /** What was run, with its version, for the report. */
  readonly title: string;
  readonly pid: number;
  readonly #process: ChildProcess;
  readonly #ended: Promise<unknown>;

  private constructor(uri: string, title: string, child: ChildProcess, ended: Promise<unknown>) {
    this.uri = uri;
    this.title = title;
    this.pid = child.pid!;
    this.#process = child;
    this.#ended = ended;
  }

  /**
   * Starts a server and waits until it takes connections. Rejects with BenchmarkError.
   *
   * @param args - Make it serve at `socket`, in the foreground.
   * @param shown - The same as a person would write them.
   */
  static async start(
    command: string,
    args: readonly string[],
    shown: string,
    socket: string,
    debianPackage: string,
  ): Promise<PeerServer> {
    const version = await versionOf(command, debianPackage);
    const child = spawn(command, args, { stdio: ["ignore", "ignore", "pipe"] });
    let said = "";
    child.stderr.on("data", (bytes: Buffer) => (said += bytes.toString()));
    const ended = once(child, "exit").catch(() => undefined);
    const kill = (): void => void child.kill();
    process.once("exit", kill);
    void ended.then(() => process.off("exit", kill));
    const title = `${command} ${version} (${command} ${shown})`;
    const server = new PeerServer(`nbd+unix:///?socket=${socket}`, title, child, ended);
    for (const from = performance.now(); !(await takesConnections(socket));) {
      if (child.exitCode !== null || performance.now() - from > START_LIMIT_MS) {
        await server[Symbol.asyncDispose]();
        throw new BenchmarkError(`${command} does not serve: ${said.trim()}`);
      }
      await delay(RETRY_MS);
    }
    return server;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#process.kill();
    await this.#ended;
  }
}

async function takesConnections(path: string): Promise<boolean> {
  const client = connect(path);
  try {
    await once(client, "connect");
    return true;
  } catch {
    return false;
  } finally {
    client.destroy();
  }
}
