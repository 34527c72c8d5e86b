import { PAGE_SIZE } from "@hyperv-is/vmbus-core/protocol";
import { StorvscError } from "./errors.js";
import {
  emitProtocolVersion,
  emitVstorHeader,
  findVstorVersion,
  parseChannelProperties,
  parseProtocolVersion,
  parseVstorHeader,
  PropertiesFlag,
  VSTOR_PACKET_BYTES_LEGACY,
  VstorFlag,
  VstorOperation,
  vstorVersions,
  type VstorVersion,
} from "./protocol/index.js";

/** What was agreed with the host about a controller: plain data, for every queue of it. */
export interface StorvscParameters {
  /** major << 8 | minor. */
  readonly version: number;
  /** Bytes of every packet from now on. */
  readonly packetBytes: number;
  /** What `length` of a SCSI request says. */
  readonly requestBytes: number;
  /** What `senseInfoLength` of a SCSI request says. */
  readonly senseBytes: number;
  /** Largest transfer of one request: whole pages. */
  readonly maxTransferBytes: number;
  /** Sub-channels that the guest may ask for; 0 when the host or the version has none. */
  readonly subChannelCountMax: number;
}

/** What can be chosen about the dialogue. */
export interface NegotiationOptions {
  /** Versions to propose, in this order; newest first unless told. */
  readonly versions?: readonly number[] | undefined;
  /** Packet size before a version is agreed: 48 as FreeBSD 11 and later start, or 64 as Linux does. */
  readonly startPacketBytes?: number | undefined;
  /** How long the host may take for each step; 60,000 unless told. */
  readonly stepTimeoutMs?: number | undefined;
  /** Upper bound for what the host allows; 1 MiB unless told. */
  readonly maxTransferBytes?: number | undefined;
}

/** The dialogue's steps, in order. */
export type NegotiationState =
  "idle" | "begin" | "version" | "properties" | "end" | "ready" | "failed";

/** What the dialogue reacts to. */
export type NegotiationInput =
  /** The primary channel is open. */
  | { readonly kind: "opened" }
  /** The completion of the packet that was sent last: all of its payload. */
  | { readonly kind: "reply"; readonly packet: Uint8Array }
  /** Time has passed; `now` says how much. */
  | { readonly kind: "tick" }
  | { readonly kind: "rescinded" }
  /** The channel closed for any other reason. */
  | { readonly kind: "closed" };

/** What its owner has to do then. */
export type NegotiationEffect =
  | { readonly kind: "send"; readonly packet: Uint8Array }
  | { readonly kind: "ready"; readonly parameters: StorvscParameters }
  | { readonly kind: "failed"; readonly error: StorvscError };

const DEFAULT_STEP_TIMEOUT_MS = 60_000;
const DEFAULT_MAX_TRANSFER_BYTES = 1 << 20;
/** FreeBSD's transfer limit: what a host that names none is asked for. */
const FREEBSD_MAX_IO_BYTES = 128 * 1024;

/**
 * The initialisation of a controller: BEGIN, QUERY_VERSION until one is accepted, QUERY_PROPERTIES, END.
 *
 * A function of state, input and time: it owns no channel, promise or timer. Whatever goes wrong at any
 * step ends it in `failed`, with one effect; FreeBSD's driver goes on half initialised there.
 */
export class Negotiation {
  readonly #versions: readonly VstorVersion[];
  readonly #startPacketBytes: number;
  readonly #stepTimeoutMs: number;
  readonly #maxTransferBytes: number;
  #state: NegotiationState = "idle";
  #deadline = Infinity;
  /** Index of the version that is being proposed, or was accepted. */
  #proposed = 0;
  #properties = { maxTransferBytes: 0, subChannelCountMax: 0 };

  constructor(options: NegotiationOptions = {}) {
    this.#versions =
      options.versions?.map((value) => {
        const version = findVstorVersion(value);
        if (version === undefined) throw new RangeError(`no such version: 0x${value.toString(16)}`);
        return version;
      }) ?? vstorVersions;
    if (this.#versions.length === 0) throw new RangeError("no version to propose");
    this.#startPacketBytes = options.startPacketBytes ?? VSTOR_PACKET_BYTES_LEGACY;
    this.#stepTimeoutMs = options.stepTimeoutMs ?? DEFAULT_STEP_TIMEOUT_MS;
    this.#maxTransferBytes = options.maxTransferBytes ?? DEFAULT_MAX_TRANSFER_BYTES;
    if (this.#maxTransferBytes < PAGE_SIZE || this.#maxTransferBytes % PAGE_SIZE !== 0)
      throw new RangeError("the largest transfer is whole pages");
  }

  get state(): NegotiationState {
    return this.#state;
  }

  /** When the next `tick` is wanted; infinite while nothing is awaited. */
  get deadline(): number {
    return this.#deadline;
  }

  /** Takes one input at time `now` and returns what is to be done about it: at most one thing. */
  step(input: NegotiationInput, now: number): NegotiationEffect | undefined {
    if (this.#state === "ready" || this.#state === "failed") return undefined;
    switch (input.kind) {
      case "rescinded":
        return this.#fail(new StorvscError("ERR_RESCINDED", "the host took the controller away"));
      case "closed":
        return this.#fail(new StorvscError("ERR_CLOSED", "the channel closed"));
      case "opened":
        if (this.#state !== "idle") throw new Error("the channel is open already");
        return this.#ask("begin", VstorOperation.beginInitialization, now);
      case "tick":
        if (now < this.#deadline) return undefined;
        return this.#fail(
          new StorvscError("ERR_STORVSC_TIMEOUT", `the host did not answer: ${this.#describe()}`),
        );
      case "reply":
        if (this.#state === "idle") return undefined;
        return this.#reply(input.packet, now);
    }
  }

  #reply(packet: Uint8Array, now: number): NegotiationEffect {
    const header = parseVstorHeader(packet);
    if (header === undefined || packet.byteLength < this.#packetBytes())
      return this.#fail(this.#badReply(`${packet.byteLength} bytes`));
    if (header.operation !== VstorOperation.completeIo)
      return this.#fail(this.#badReply(`operation ${header.operation}`));
    if (header.status !== 0) return this.#refused(header.status, now);
    switch (this.#state) {
      case "begin":
        return this.#propose(now);
      case "version": {
        const echoed = parseProtocolVersion(packet)?.majorMinor;
        if (echoed !== this.#version().value)
          return this.#fail(this.#badReply(`version 0x${(echoed ?? 0).toString(16)}`));
        return this.#ask("properties", VstorOperation.queryProperties, now);
      }
      case "properties": {
        const properties = parseChannelProperties(packet);
        if (properties === undefined) return this.#fail(this.#badReply("no properties"));
        const several =
          this.#version().multiChannel && (properties.flags & PropertiesFlag.multiChannel) !== 0;
        this.#properties = {
          maxTransferBytes: this.#allowed(properties.maxTransferBytes),
          subChannelCountMax: several ? properties.subChannelCountMax : 0,
        };
        return this.#ask("end", VstorOperation.endInitialization, now);
      }
      default:
        return this.#ready();
    }
  }

  /** A refused version is not the end, another step is. */
  #refused(status: number, now: number): NegotiationEffect {
    if (this.#state !== "version")
      return this.#fail(
        new StorvscError(
          "ERR_STORVSC_REFUSED",
          `the host refused (status 0x${status.toString(16)}): ${this.#describe()}`,
          status,
        ),
      );
    this.#proposed++;
    if (this.#proposed < this.#versions.length) return this.#propose(now);
    return this.#fail(
      new StorvscError("ERR_STORVSC_VERSION", "the host refused every protocol version", status),
    );
  }

  #propose(now: number): NegotiationEffect {
    return this.#ask("version", VstorOperation.queryProtocolVersion, now);
  }

  #ask(state: NegotiationState, operation: VstorOperation, now: number): NegotiationEffect {
    this.#state = state;
    this.#deadline = now + this.#stepTimeoutMs;
    const packet = new Uint8Array(this.#packetBytes());
    emitVstorHeader(packet, { operation, flags: VstorFlag.requestCompletion, status: 0 });
    if (state === "version")
      emitProtocolVersion(packet, { majorMinor: this.#version().value, revision: 0 });
    return { kind: "send", packet };
  }

  #ready(): NegotiationEffect {
    this.#state = "ready";
    this.#deadline = Infinity;
    const { value, packetBytes, requestBytes, senseBytes } = this.#version();
    return {
      kind: "ready",
      parameters: {
        version: value,
        packetBytes,
        requestBytes,
        senseBytes,
        ...this.#properties,
      },
    };
  }

  #fail(error: StorvscError): NegotiationEffect {
    this.#state = "failed";
    this.#deadline = Infinity;
    return { kind: "failed", error };
  }

  #badReply(what: string): StorvscError {
    return new StorvscError("ERR_STORVSC_REPLY", `no answer to this: ${what}, ${this.#describe()}`);
  }

  /** The size of a packet depends on the version only once one is agreed. */
  #packetBytes(): number {
    const agreed = this.#state === "properties" || this.#state === "end";
    return agreed ? this.#version().packetBytes : this.#startPacketBytes;
  }

  #version(): VstorVersion {
    return this.#versions[this.#proposed]!;
  }

  /** What the host allows, in whole pages; hosts below 4.2 leave the field alone. */
  #allowed(maxTransferBytes: number): number {
    const pages = maxTransferBytes - (maxTransferBytes % PAGE_SIZE);
    return Math.min(pages === 0 ? FREEBSD_MAX_IO_BYTES : pages, this.#maxTransferBytes);
  }

  #describe(): string {
    if (this.#state !== "version") return `step ${this.#state}`;
    return `step version, proposing 0x${this.#version().value.toString(16).padStart(4, "0")}`;
  }
}
