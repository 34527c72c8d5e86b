import type { IcChannel, IcRequest, IcService } from "@hyperv-is/hv-utils";
import {
  frameworkVersions,
  IcMessageType,
  IcStatus,
  icVersion,
  type IcVersion,
  type IcVersions,
} from "@hyperv-is/hv-utils/protocol";
import { Machine, type Timers } from "@hyperv-is/vmbus-core";
import type { KvpDevice, KvpDeviceFile, KvpDeviceReader } from "./device.js";
import {
  kvpExchange,
  type ExchangeEffect,
  type ExchangeInput,
  type ExchangeState,
  type Posed,
} from "./exchange-state.js";
import {
  deviceStatus,
  emitDeviceRequest,
  emitIpAnswer,
  emitItemAnswer,
  emitRegistration,
  freebsdDialect,
  KvpOperation,
  LEGACY_REGISTER,
  LINUX_INTERFACE_VERSION,
  parseDeviceItem,
  parseDeviceSettings,
  parseKvpRequest,
  type DeviceDialect,
  type DeviceRequest,
  type IpForm,
  type KvpFlaw,
  type KvpRequest,
} from "./protocol/index.js";

const v5_0 = icVersion(5);

/** Message versions, best first: 4.0 brought addresses, 5.0 has them in binary form. */
export const kvpVersions: readonly IcVersion[] = [v5_0, icVersion(4), icVersion(3), icVersion(1)];

/** What can be chosen about the driver. */
export interface KvpOptions {
  /** Whose kernel's device this is; FreeBSD's unless told. */
  readonly dialect?: DeviceDialect | undefined;
  /** Message versions to agree on, best first; all unless told. FreeBSD and Linux stop at 4.0. */
  readonly versions?: readonly IcVersion[] | undefined;
  /**
   * The name of the interface whose channel has this instance GUID (lower case, no braces), for FreeBSD's dialect,
   * whose daemon knows interfaces by name; undefined if there is none. Without this the GUID is passed on.
   */
  readonly interfaceName?: ((instanceId: string) => string | undefined) | undefined;
}

/** Running totals of the driver. */
export interface KvpCounters {
  /** Daemons that registered. */
  registrations: number;
  /** Requests that a daemon answered. */
  answered: number;
  /** Requests of which the driver refused what was in them. */
  refused: number;
  /** Requests whose time was over, or whose daemon went away. */
  timeouts: number;
  orphans: number;
  /** Answers and other messages of daemons that nobody waited for. */
  late: number;
}

/** The answer to a request that has what is wrong with it. */
const flawStatus: Readonly<Record<KvpFlaw, IcStatus>> = {
  length: IcStatus.invalidArgument,
  operation: IcStatus.notSupported,
  pool: IcStatus.invalidArgument,
  index: IcStatus.noMoreItems,
  key: IcStatus.invalidArgument,
  value: IcStatus.invalidArgument,
  adapter: IcStatus.notFound,
  address: IcStatus.invalidArgument,
};

const NOTHING = new Uint8Array(0);

/** A request with what is needed to answer it. */
interface Asked {
  readonly request: IcRequest;
  readonly operation: KvpOperation;
  readonly form: IpForm;
}

/**
 * The driver of key-value pairs: what the host asks, checked and as UTF-8, goes to the daemon at the device, and
 * its answer back. Without a daemon the host is not heard, so that what it sets after agreeing on versions, the
 * addresses for a failover above all, is not lost.
 */
export class KvpService implements IcService {
  readonly type: IcMessageType = IcMessageType.kvp;
  readonly frameworks: readonly IcVersion[] = frameworkVersions;
  readonly messages: readonly IcVersion[];
  readonly device: KvpDevice;
  readonly counters: KvpCounters = {
    registrations: 0,
    answered: 0,
    refused: 0,
    timeouts: 0,
    orphans: 0,
    late: 0,
  };
  readonly #channel: Pick<IcChannel, "listen" | "hold" | "respond">;
  readonly #dialect: DeviceDialect;
  readonly #interfaceName: KvpOptions["interfaceName"];
  readonly #machine: Machine<ExchangeState<Asked>, ExchangeInput<Asked>, ExchangeEffect<Asked>>;
  #reader: KvpDeviceReader | undefined;
  #isLegacy = false;
  #isClosed = false;
  #refusal: "EBUSY" | "EINVAL" | undefined;

  constructor(
    channel: Pick<IcChannel, "listen" | "hold" | "respond">,
    timers: Timers,
    options: KvpOptions = {},
  ) {
    this.#channel = channel;
    this.#dialect = options.dialect ?? freebsdDialect;
    this.messages = options.versions ?? kvpVersions;
    this.#interfaceName = options.interfaceName;
    this.#machine = new Machine<ExchangeState<Asked>, ExchangeInput<Asked>, ExchangeEffect<Asked>>(
      timers,
      { name: "absent" },
      (state, input, now) => kvpExchange(this.#dialect, state, input, now),
      (effect) => this.#carryOut(effect),
    );
    this.device = { dialect: this.#dialect, open: (reader) => this.#open(reader) };
  }

  /** Name of the state: `absent`, `opened`, `idle`, `busy`, `late`, `waiting`, `orphaned`. */
  get state(): ExchangeState<unknown>["name"] {
    return this.#machine.state.name;
  }

  request(request: IcRequest, { message: version }: IcVersions): void {
    const form = version >= v5_0 ? "binary" : "text";
    const { body } = request.message;
    const parsed = parseKvpRequest(body, form);
    if (typeof parsed === "string") {
      this.#refuse(request, flawStatus[parsed]);
      return;
    }
    const posed = this.#posed(parsed);
    if (typeof posed === "number") {
      this.#refuse(request, posed);
      return;
    }
    const { operation } = parsed;
    const message = emitDeviceRequest(this.#dialect, posed);
    this.#machine.input({
      kind: "request",
      posed: { request: { request, operation, form }, message },
    });
  }

  cancelled(): void {
    this.#machine.input({ kind: "cancel" });
  }

  closed(): void {
    this.#isClosed = true;
    this.#reader?.gone();
    this.#reader = undefined;
  }

  /** The request as the daemon gets it, or the status that refuses it. */
  #posed(request: KvpRequest): DeviceRequest | IcStatus {
    switch (request.operation) {
      case KvpOperation.set:
        return { ...request, value: String(request.value) };
      case KvpOperation.getIpInfo:
        return this.#isLegacy ? IcStatus.notSupported : request;
      case KvpOperation.setIpInfo: {
        if (this.#isLegacy) return IcStatus.notSupported;
        const { operation, settings } = request;
        const adapterId =
          this.#interfaceName === undefined
            ? request.adapterId
            : this.#interfaceName(request.adapterId.slice(1, -1));
        return adapterId === undefined
          ? IcStatus.notFound
          : { operation, adapter: { adapterId, settings } };
      }
      default:
        return request;
    }
  }

  #refuse(request: IcRequest, status: IcStatus): void {
    this.counters.refused++;
    this.#channel.respond(request, status, request.message.body);
  }

  #open(reader: KvpDeviceReader): KvpDeviceFile | "EBUSY" | "ENXIO" {
    if (this.#isClosed) return "ENXIO";
    if (this.#input({ kind: "open" }) !== undefined) return "EBUSY";
    this.#reader = reader;
    let isOpen = true;
    return {
      write: (message) => {
        const isWhole = message.byteLength === this.#dialect.messageBytes;
        if (!isOpen || this.#isClosed || !isWhole) return "EINVAL";
        return this.#input({ kind: "write", message }) === undefined ? undefined : "EINVAL";
      },
      close: () => {
        if (!isOpen) return;
        isOpen = false;
        if (this.#reader === reader) this.#reader = undefined;
        this.#machine.input({ kind: "close" });
      },
    };
  }

  #input(input: ExchangeInput<Asked>): "EBUSY" | "EINVAL" | undefined {
    this.#refusal = undefined;
    this.#machine.input(input);
    return this.#refusal;
  }

  #carryOut(effect: ExchangeEffect<Asked>): void {
    switch (effect.kind) {
      case "listen":
        this.#channel.listen();
        return;
      case "hold":
        this.#channel.hold();
        return;
      case "registered":
        this.#registered(effect.operation);
        return;
      case "deliver":
        this.#reader?.message(effect.message);
        return;
      case "answer":
        this.counters.answered++;
        this.#answer(effect.posed, effect.message);
        return;
      case "fail": {
        if (effect.why === "timeout") this.counters.timeouts++;
        else this.counters.orphans++;
        const { request } = effect.posed.request;
        this.#channel.respond(request, IcStatus.fail, request.message.body);
        return;
      }
      case "refuse":
        this.#refusal = effect.error;
        return;
      case "dropped":
        this.counters.late++;
        // Linux's device refuses such a write.
        if (this.#dialect.name === "linux") this.#refusal = "EINVAL";
    }
  }

  #registered(operation: number): void {
    this.counters.registrations++;
    this.#isLegacy = this.#dialect.name === "linux" && operation === LEGACY_REGISTER;
    if (this.#dialect.answersRegistration)
      this.#reader?.message(emitRegistration(this.#dialect, operation, LINUX_INTERFACE_VERSION));
  }

  #answer({ request: asked }: Posed<Asked>, message: Uint8Array): void {
    const { request, operation, form } = asked;
    const respond = (status: IcStatus, body: Uint8Array): void =>
      this.#channel.respond(request, status, body);
    const { body } = request.message;
    const hasItem = operation === KvpOperation.get || operation === KvpOperation.enumerate;
    const item = hasItem ? parseDeviceItem(message, operation) : undefined;
    const status = this.#isLegacy
      ? item?.key === ""
        ? IcStatus.noMoreItems
        : IcStatus.ok
      : deviceStatus(message);
    if (status !== IcStatus.ok) respond(status, body);
    else if (item !== undefined) respond(status, emitItemAnswer(body, item));
    else if (operation === KvpOperation.getIpInfo) {
      const adapter = parseDeviceSettings(message);
      if (adapter === undefined) respond(IcStatus.fail, body);
      else respond(status, emitIpAnswer(adapter, form));
    } else respond(status, NOTHING);
  }
}
