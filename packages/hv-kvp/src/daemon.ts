import { IcStatus } from "@hyperv-is/hv-utils/protocol";
import { autoItems, type GuestFactsSource } from "./auto-items.js";
import { KvpError } from "./errors.js";
import type { IpConfigurator } from "./ip-configurator.js";
import { findValue, type Pools } from "./pools.js";
import {
  emitDeviceAnswer,
  emitRegistration,
  isKey,
  KVP_POOL_COUNT,
  KvpOperation,
  KvpPool,
  parseDeviceRequest,
  parseMac,
  parseRegistration,
  type DeviceAnswer,
  type DeviceDialect,
  type DeviceFlaw,
  type DeviceRequest,
  type KvpItem,
} from "./protocol/index.js";

/** What a daemon serves with. */
export interface KvpDaemonOptions {
  readonly dialect: DeviceDialect;
  readonly pools: Pools;
  readonly facts: GuestFactsSource;
  readonly network: IpConfigurator;
  /** What went wrong, for a log; the host gets a status. */
  readonly failed?: ((error: KvpError) => void) | undefined;
}

const flawStatus: Readonly<Record<DeviceFlaw, IcStatus>> = {
  operation: IcStatus.notSupported,
  address: IcStatus.invalidArgument,
  text: IcStatus.invalidArgument,
};

/**
 * The daemon: answers the kernel's messages with what is in the pools, known of the guest, and set in its network.
 * It has no device: bytes go in and come out. Stands behind stock kernels too, which check nothing.
 */
export class KvpDaemon {
  readonly dialect: DeviceDialect;
  readonly #options: KvpDaemonOptions;
  /** What the current enumeration of pool 2 goes through. */
  #auto: readonly KvpItem[] = [];
  #isRegistered = false;
  /** Version of the kernel's interface, where the kernel has said it. */
  kernelVersion: string | undefined;

  constructor(options: KvpDaemonOptions) {
    this.dialect = options.dialect;
    this.#options = options;
  }

  /** The message that registers the daemon: the first one on each opened device. */
  registration(): Uint8Array {
    this.#isRegistered = false;
    return emitRegistration(this.dialect, this.dialect.registerOperation);
  }

  /** Answers a message of the kernel; undefined for its answer to the registration. Never rejects. */
  async answer(message: Uint8Array): Promise<Uint8Array | undefined> {
    const { answersRegistration } = this.dialect;
    if (
      answersRegistration &&
      !this.#isRegistered &&
      message[0] === this.dialect.registerOperation
    ) {
      this.#isRegistered = true;
      this.kernelVersion = parseRegistration(message);
      return undefined;
    }
    const request = parseDeviceRequest(message);
    if (typeof request === "string")
      return emitDeviceAnswer(message, { status: flawStatus[request] });
    try {
      return emitDeviceAnswer(message, await this.#serve(request));
    } catch (error) {
      if (!(error instanceof KvpError)) throw error;
      this.#options.failed?.(error);
      return emitDeviceAnswer(message, { status: IcStatus.fail });
    }
  }

  async #serve(request: DeviceRequest): Promise<DeviceAnswer> {
    switch (request.operation) {
      case KvpOperation.getIpInfo:
        return this.#readAddresses(request.adapterId);
      case KvpOperation.setIpInfo: {
        const { adapterId, settings } = request.adapter;
        const isThere = await this.#options.network.apply(adapterId, settings);
        return { status: isThere ? IcStatus.ok : IcStatus.notFound };
      }
      default:
        if (request.pool >= KVP_POOL_COUNT) return { status: IcStatus.invalidArgument };
        return this.#servePool(request);
    }
  }

  async #servePool(
    request: Extract<DeviceRequest, { readonly pool: number }>,
  ): Promise<DeviceAnswer> {
    const { pools } = this.#options;
    const { pool } = request;
    const isAuto = pool === KvpPool.auto;
    const refused = { status: IcStatus.noMoreItems };
    switch (request.operation) {
      case KvpOperation.enumerate: {
        if (isAuto && (request.index === 0 || this.#auto.length === 0)) await this.#refreshAuto();
        const item = (isAuto ? this.#auto : pools.items(pool))[request.index];
        return item === undefined ? refused : { status: IcStatus.ok, item };
      }
      case KvpOperation.get: {
        if (isAuto) await this.#refreshAuto();
        const { key } = request;
        const value = findValue(isAuto ? this.#auto : pools.items(pool), key);
        return value === undefined ? refused : { status: IcStatus.ok, item: { key, value } };
      }
      case KvpOperation.set: {
        if (isAuto) return refused;
        const { key, value } = request;
        if (!isKey(key)) return { status: IcStatus.invalidArgument };
        pools.set(pool, { key, value });
        return { status: IcStatus.ok };
      }
      case KvpOperation.delete:
        if (isAuto || !pools.delete(pool, request.key)) return refused;
        return { status: IcStatus.ok };
    }
  }

  async #refreshAuto(): Promise<void> {
    this.#auto = autoItems(await this.#options.facts.read(), this.dialect.name === "linux");
  }

  async #readAddresses(adapterId: string): Promise<DeviceAnswer> {
    const mac = parseMac(adapterId);
    const settings = mac === undefined ? undefined : await this.#options.network.read(mac);
    return settings === undefined
      ? { status: IcStatus.fail }
      : { status: IcStatus.ok, adapter: { adapterId, settings } };
  }
}
