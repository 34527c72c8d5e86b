import { mkdirSync } from "node:fs";
import { dirname, join } from "node:path";
import {
  attachDaemon,
  KvpDaemon,
  type KvpError,
  MemoryPools,
  type GuestFacts,
  type IpConfigurator,
  type KvpDeviceFile,
  type KvpOptions,
  type KvpService,
} from "@hyperv-is/hv-kvp";
import { PoolFiles, poolDirectory, serveDevice, type ServedDevice } from "@hyperv-is/hv-kvp/node";
import { deviceDialects, freebsdDialect, type DeviceDialect } from "@hyperv-is/hv-kvp/protocol";
import type { SystemIdentity } from "./guest-system.js";

/** Names of the kernels whose device the guest may have. */
export type DialectName = DeviceDialect["name"];
export const dialectNames: readonly DialectName[] = deviceDialects.map(({ name }) => name);

/** How the guest serves key-value pairs: plain data. */
export interface KeyValueSettings {
  /** Directory for the device node; none without it. */
  readonly deviceDirectory?: string | undefined;
  /** Whose device it is; FreeBSD's unless told. */
  readonly dialect?: DialectName | undefined;
  /** Directory below which the pools are kept; in memory, while the guest runs, without it. */
  readonly rootDirectory?: string | undefined;
  /** False leaves the guest's own daemon out. */
  readonly hasDaemon: boolean;
}

/** What the guest knows of itself, and does. */
export interface KeyValueContext {
  readonly identity: SystemIdentity;
  /** Addresses of its interfaces, but the loopback. */
  readonly addresses: () => GuestFacts["addresses"];
  /** Its network, once the kernel has one. */
  readonly network: () => IpConfigurator;
  /** The name of the interface whose channel has an instance GUID. */
  readonly interfaceName?: KvpOptions["interfaceName"];
  readonly print: (line: string) => void;
}

/** Key-value pairs in the guest: its daemon, and the device node for another one. */
export class KeyValuePairs {
  /** For the driver. */
  readonly options: KvpOptions;
  readonly #settings: KeyValueSettings;
  readonly #context: KeyValueContext;
  readonly #pools: MemoryPools | PoolFiles;
  #node: ServedDevice | undefined;
  #daemon: KvpDeviceFile | undefined;

  constructor(settings: KeyValueSettings, context: KeyValueContext) {
    this.#settings = settings;
    this.#context = context;
    const { interfaceName } = context;
    const { rootDirectory } = settings;
    const dialect = deviceDialects.find(({ name }) => name === settings.dialect);
    this.#pools =
      rootDirectory === undefined
        ? new MemoryPools()
        : new PoolFiles(poolDirectory(dialect ?? freebsdDialect, rootDirectory));
    const hasNames = dialect?.name !== "linux" && interfaceName !== undefined;
    this.options = { dialect, ...(hasNames && { interfaceName }) };
  }

  /**
   * Serves a driver that has attached its device. Rejects with a `PlatformError` if there can be no device node, with a
   * `KvpError` if there can be no pools.
   */
  async serve({ device }: KvpService): Promise<void> {
    const { deviceDirectory, hasDaemon } = this.#settings;
    this.close();
    if (hasDaemon) {
      if (this.#pools instanceof PoolFiles) this.#pools.create();
      const daemon = new KvpDaemon({
        dialect: device.dialect,
        pools: this.#pools,
        facts: { read: () => Promise.resolve(this.#facts()) },
        network: this.#context.network(),
        failed: (error: KvpError) => this.#context.print(`hv_kvpd: ${error.message}`),
      });
      this.#daemon = attachDaemon(device, daemon);
    }
    if (deviceDirectory === undefined) return;
    const path = join(deviceDirectory, device.dialect.devicePath.replace(/^\/dev\//, ""));
    mkdirSync(dirname(path), { recursive: true });
    this.#node = await serveDevice(path, device);
    this.#context.print(`hvkvp0: device node ${path}`);
  }

  /** Takes daemon and device node away. */
  close(): void {
    this.#daemon?.close();
    this.#daemon = undefined;
    this.#node?.close();
    this.#node = undefined;
  }

  #facts(): GuestFacts {
    const { identity, addresses } = this.#context;
    return {
      fullyQualifiedDomainName: identity.hostName,
      integrationServicesVersion: identity.release,
      addresses: addresses(),
      osName: identity.type,
      osVersion: identity.release.replace(/-.*$/, ""),
      kernelRelease: identity.release,
      machine: identity.machine,
    };
  }
}
