import { createServer } from "node:net";
import type { GuestMemory, Timers } from "@hyperv-is/vmbus-core";
import { BootError } from "../boot-error.js";
import type { GuestSystem } from "../kernel/guest-system.js";
import { addressKey, exportUri, type NbdExportOptions, type NbdServed } from "./export-address.js";
import type { StreamPump } from "./byte-stream.js";
import { listenAt, type ListeningSocket } from "./listening-socket.js";
import { NbdConnection, type ConnectionContext } from "./nbd-connection.js";
import { NbdExport, type ExportCounters } from "./nbd-export.js";

/** How long clients may take to fetch the last replies when the guest shuts down. */
const SHUTDOWN_MS = 5_000;

/** What a server of exports works with. */
export interface NbdServerOptions {
  readonly exports: readonly NbdExportOptions[];
  readonly system: GuestSystem;
  readonly memory: GuestMemory;
  readonly timers: Timers;
  /** Reads and writes connections past Node; undefined where Node is to do that. */
  readonly pump: StreamPump | undefined;
  /** Requests were given to a disk outside a turn of this thread's pump, which takes one now. */
  turnNow(): void;
}

/** Serves disks of the guest to NBD clients. */
export class NbdServer {
  readonly #options: NbdServerOptions;
  readonly #listeners: ListeningSocket[] = [];
  readonly #connections = new Set<NbdConnection>();
  readonly #exports = new Map<string, NbdExport>();
  readonly #served: NbdServed[] = [];
  #isShuttingDown = false;
  #emptied: () => void = () => undefined;
  #shuttingDown: Promise<void> | undefined;

  private constructor(options: NbdServerOptions) {
    this.#options = options;
  }

  /** Listens for clients of all exports, or of none. Rejects with `BootError` `ERR_NBD`. */
  static async start(options: NbdServerOptions): Promise<NbdServer> {
    const server = new NbdServer(options);
    try {
      const groups = new Map<string, NbdExportOptions[]>();
      for (const [index, one] of options.exports.entries()) {
        const key = addressKey(one, index);
        groups.set(key, [...(groups.get(key) ?? []), one]);
      }
      for (const group of groups.values()) await server.#listen(group);
      return server;
    } catch (error) {
      for (const listener of server.#listeners) listener.close();
      throw error;
    }
  }

  /** Where what is served, in the order of the options. */
  get served(): readonly NbdServed[] {
    return this.#served;
  }

  /**
   * Ends in good order: takes nobody new, refuses new requests, answers those that it has, and cuts off who does not
   * fetch the answers in time. Idempotent.
   */
  shutDown(): Promise<void> {
    this.#shuttingDown ??= this.#shutDown();
    return this.#shuttingDown;
  }

  async #shutDown(): Promise<void> {
    this.#isShuttingDown = true;
    for (const listener of this.#listeners) listener.close();
    for (const connection of [...this.#connections]) connection.shutDown();
    if (this.#connections.size === 0) return;
    await new Promise<void>((resolve) => {
      const timer = this.#options.timers.after(SHUTDOWN_MS, () => {
        for (const connection of [...this.#connections]) connection.abort();
        // What the disks still do is for their controllers to wait for.
        resolve();
      });
      this.#emptied = () => {
        timer.cancel();
        resolve();
      };
    });
  }

  async #listen(group: readonly NbdExportOptions[]): Promise<void> {
    const exports = [...new Set(group.map(({ disk }) => this.#export(disk)))];
    const isShuttingDown = (): boolean => this.#isShuttingDown;
    const context: ConnectionContext = {
      exports,
      timers: this.#options.timers,
      pump: this.#options.pump,
      get isShuttingDown() {
        return isShuttingDown();
      },
      turnNow: () => this.#options.turnNow(),
      released: (connection) => this.#released(connection),
    };
    const server = createServer({ allowHalfOpen: true, pauseOnConnect: true }, (socket) => {
      this.#connections.add(new NbdConnection(socket, context));
    });
    const listener = await listenAt(server, group[0]!);
    this.#listeners.push(listener);
    for (const { name } of exports) {
      const uri = exportUri(name, listener.address);
      this.#served.push({ disk: name, uri });
      this.#options.system.dmesg.print(`${name}: exported as ${uri}`);
    }
  }

  /** The export of a disk, of which there is one, however many addresses it is served at. */
  #export(disk: string): NbdExport {
    const { system, memory } = this.#options;
    const known = this.#exports.get(disk);
    if (known !== undefined) return known;
    const made = new NbdExport(disk, system, memory);
    if (made.describe() === undefined) {
      const names = system.disks.map(({ name }) => name).join(", ") || "none";
      throw new BootError(
        "ERR_NBD",
        `NBD export ${disk}: the guest has no such disk; it has ${names}`,
      );
    }
    this.#exports.set(disk, made);
    this.#addSysctls(made);
    return made;
  }

  #addSysctls({ name, counters }: NbdExport): void {
    const show = (leaf: keyof ExportCounters, sysctl: string, description: string): void =>
      this.#options.system.sysctl.show(
        `kern.nbd.${name}.${sysctl}`,
        description,
        () => counters[leaf],
      );
    show("connections", "connections", "clients now");
    show("requests", "requests", "# of requests");
    show("readBytes", "read_bytes", "bytes that clients have read");
    show("writtenBytes", "written_bytes", "bytes that clients have written");
    show("errors", "errors", "# of requests that failed");
    show("violations", "violations", "# of connections cut because of what the client sent");
  }

  #released(connection: NbdConnection): void {
    this.#connections.delete(connection);
    if (this.#connections.size === 0) this.#emptied();
  }
}
