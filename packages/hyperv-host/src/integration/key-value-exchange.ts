import {
  emitKvpRequest,
  KvpOperation,
  parseIpAnswer,
  parseItemAnswer,
  type IpForm,
  type IpSettings,
  type KvpPool,
  type KvpRequest,
  type KvpValue,
} from "@hyperv-is/hv-kvp/protocol";
import { IcMessageType, IcStatus, icVersion } from "@hyperv-is/hv-utils/protocol";
import { Component, type ComponentResult, type ComponentStats } from "./component.js";
import type { ComponentSpeech } from "./component-session.js";
import { failureOf, GuestError } from "./guest-error.js";

/** A key and its value, as a guest has it. */
export interface GuestItem {
  readonly key: string;
  readonly value: KvpValue;
}

/** What became of a request: what the guest found, or why it did not. */
export type KvpResult =
  | {
      readonly kind: "done";
      /** Of GET and an enumeration. */
      readonly item?: GuestItem;
      /** Of GET_IP_INFO. */
      readonly settings?: IpSettings;
    }
  /** The end of an enumeration, or no such key. */
  | { readonly kind: "none" }
  | { readonly kind: "failed"; readonly error: GuestError };

/** What a host's exchange of key-value pairs has done; JSON. */
export interface KvpStats extends ComponentStats {
  readonly asked: number;
  readonly answered: number;
  /** Requests that failed, by a status of the guest or for want of an answer. */
  readonly failed: number;
}

/** What can be chosen about it. */
export interface KvpConfig extends Partial<ComponentSpeech> {
  /** What the guest is asked for each time that versions are agreed on: its addresses after a failover, say, and what pools 0 and 3 are to hold. */
  readonly atAgreement?: readonly KvpRequest[];
}

/** Longer than Linux lets its daemon take, 30 s, so that it is the guest that gives up. */
const ANSWER_TIMEOUT_MS = 35_000;
const NO_DAEMON =
  "the guest has no daemon of key-value pairs yet, without which its driver does not hear the host. " +
  "Start one in the guest: 'service hv_kvpd start', 'systemctl start hv-kvp-daemon', or 'hv-kvp daemon'";
const SILENT_DAEMON =
  "the guest did not answer in time: its daemon of key-value pairs may have ended. It goes on when one is started there";
/** Requests that wait for their turn. */
const QUEUE_LIMIT = 64;
/** Items of a pool: more than a guest is to have (1024), and an end for one that never ends. */
const ENUMERATE_LIMIT = 4096;

const v5_0 = icVersion(5);

/** What OpenVMM offers, in its order. */
const offered = {
  frameworks: [icVersion(1), icVersion(3)],
  messages: [icVersion(3), icVersion(4), v5_0],
};

interface Posed {
  readonly request: KvpRequest;
  readonly done: (result: KvpResult) => void;
}

/** The host's exchange of key-value pairs: asks the guest for one thing after the other. */
export class KeyValueExchange {
  readonly component: Component;
  readonly #queue: Posed[] = [];
  readonly #atAgreement: readonly KvpRequest[];
  #isAsking = false;
  #asked = 0;
  #answered = 0;
  #failed = 0;

  constructor(config: KvpConfig = {}) {
    const { frameworks = offered.frameworks, messages = offered.messages } = config;
    this.#atAgreement = config.atAgreement ?? [];
    this.component = new Component(
      { type: IcMessageType.kvp, frameworks, messages },
      {
        agreed: () => {
          for (const request of this.#atAgreement) this.ask(request, () => undefined);
        },
      },
    );
  }

  /** Asks the guest, when it is this request's turn. `done` is called once, now or later. */
  ask(request: KvpRequest, done: (result: KvpResult) => void): void {
    if (this.#queue.length >= QUEUE_LIMIT) {
      done({ kind: "failed", error: new GuestError("ERR_GUEST_BUSY", "too many requests wait") });
      return;
    }
    this.#queue.push({ request, done });
    this.#next();
  }

  /** All items of a pool, in the guest's order. A guest that ends with an empty key, as FreeBSD's first drivers do, has ended. */
  enumerate(pool: KvpPool, done: (result: readonly GuestItem[] | GuestError) => void): void {
    const items: GuestItem[] = [];
    const askNext = (): void => {
      const request = { operation: KvpOperation.enumerate, pool, index: items.length } as const;
      this.ask(request, (result) => {
        if (result.kind === "failed") done(result.error);
        else if (result.kind === "none" || result.item === undefined || result.item.key === "")
          done(items);
        else {
          items.push(result.item);
          if (items.length < ENUMERATE_LIMIT) askNext();
          else done(items);
        }
      });
    };
    askNext();
  }

  get stats(): KvpStats {
    return {
      ...this.component.stats,
      asked: this.#asked,
      answered: this.#answered,
      failed: this.#failed,
    };
  }

  #next(): void {
    if (this.#isAsking) return;
    const posed = this.#queue.shift();
    if (posed === undefined) return;
    this.#isAsking = true;
    this.#asked++;
    const form = (this.component.versions?.message ?? 0) >= v5_0 ? "binary" : "text";
    const body = emitKvpRequest(posed.request, form);
    this.component.ask(
      body,
      (result) => {
        this.#isAsking = false;
        const outcome = this.#outcome(posed.request, form, result);
        if (outcome.kind === "failed") this.#failed++;
        else this.#answered++;
        posed.done(outcome);
        this.#next();
      },
      ANSWER_TIMEOUT_MS,
    );
  }

  /** The failure of a request that wants a daemon in the guest, as far as a host can tell. */
  #wantOfDaemon(result: ComponentResult): GuestError | undefined {
    if (result.kind !== "failed") return undefined;
    if (result.why === "silent") return new GuestError("ERR_GUEST_SILENT", SILENT_DAEMON);
    const isHeld = result.why === "not-ready" && this.component.stats.state === "negotiating";
    return isHeld ? new GuestError("ERR_GUEST_NOT_READY", NO_DAEMON) : undefined;
  }

  #outcome(request: KvpRequest, form: IpForm, result: ComponentResult): KvpResult {
    if (result.kind === "answered" && result.status === IcStatus.noMoreItems)
      return { kind: "none" };
    const error = this.#wantOfDaemon(result) ?? failureOf(result);
    if (error !== undefined || result.kind === "failed")
      return { kind: "failed", error: error ?? new GuestError("ERR_GUEST_GONE", "no answer") };
    switch (request.operation) {
      case KvpOperation.get:
      case KvpOperation.enumerate: {
        const item = parseItemAnswer(result.body);
        return item === undefined ? this.#malformed("an item") : { kind: "done", item };
      }
      case KvpOperation.getIpInfo: {
        const adapter = parseIpAnswer(result.body, form);
        if (adapter === undefined) return this.#malformed("addresses");
        return { kind: "done", settings: adapter.settings };
      }
      default:
        return { kind: "done" };
    }
  }

  #malformed(what: string): KvpResult {
    const detail = `an answer whose body holds no ${what.replace(/^an? /, "")}`;
    this.component.fail("kvp-answer", detail);
    return { kind: "failed", error: new GuestError("ERR_GUEST_GONE", detail) };
  }
}
