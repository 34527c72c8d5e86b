import type { Clock } from "@hyperv-is/vmbus-core";
import { DeviceClass, type Guid, type ProtocolVersion } from "@hyperv-is/vmbus-core/protocol";
import type { KvpDamage, MessageDamage } from "./integration/damage.js";
import type { RndisDamage, TransferDamage } from "./netvsp/damage.js";

/** Where the host asks the plan whether to misbehave. */
export type FaultPoint =
  /** A device starts on a request. */
  | "device.request"
  /** A device is about to answer a request. */
  | "device.complete"
  /** A host worker is about to look at a channel's ring. */
  | "channel.poll"
  /** A device wants sub-channels to be offered. */
  | "sub-channel.offer"
  /** A packet came on a sub-channel. */
  | "sub-channel.packet"
  /** The guest asks for a protocol version. */
  | "bus.version"
  /** A frame goes into the switch at a port, or out of it. */
  | "switch.frame"
  /** A network adapter is about to complete what the guest has sent. */
  | "network.complete"
  /** A network adapter is about to hand a frame to the guest. */
  | "network.receive"
  /** An integration component is about to ask the guest for something. */
  | "component.request"
  /** So is the one of key-value pairs. */
  | "kvp.request";

/** Operations of devices, as faults name them. */
export const faultOperations = [
  "read",
  "write",
  "flush",
  "unmap",
  "inquiry",
  "read-capacity",
  "test-unit-ready",
  "mode-sense",
  "report-luns",
  "other",
  "transmit",
  "receive",
  "control",
] as const;

/** What a device does for a request. With frames, its guest sends (`transmit`) or gets them; `control` is RNDIS's. */
export type FaultOperation = (typeof faultOperations)[number];

/** Which occasions a fault applies to; what is not given does not matter. */
export interface FaultSelector {
  /** Instance GUID, class GUID, or name of a class (a key of `DeviceClass`, such as `scsi`). */
  readonly device?: string;
  readonly lun?: number;
  readonly operation?: FaultOperation;
  /** Only the nth matching occasion; from 1. */
  readonly nth?: number;
  /** Each occasion whose number is a multiple of this. */
  readonly every?: number;
  /** Each occasion with this probability, by the plan's seed. */
  readonly probability?: number;
  /** At most this many times. */
  readonly count?: number;
  /** Not before this many milliseconds after the host started. */
  readonly afterMs?: number;
}

/** A fault: what goes wrong, how, and when. */
export type Fault = FaultSelector &
  (
    | { readonly kind: "late-completion"; readonly delayMs: number }
    | { readonly kind: "lost-completion" }
    | { readonly kind: "duplicate-completion" }
    /** Transfers only the first bytes, and reports success with that length. */
    | { readonly kind: "short-transfer"; readonly bytes: number }
    | {
        readonly kind: "check-condition";
        readonly senseKey: number;
        readonly additionalCode: number;
        readonly additionalQualifier: number;
      }
    /** The host does not look at a ring for a while. */
    | { readonly kind: "stalled-ring"; readonly durationMs: number }
    /** The device goes away; and comes back, if a number is given. */
    | { readonly kind: "rescind"; readonly reofferAfterMs?: number }
    /** The sub-channels that a device promised are offered only after a while. */
    | { readonly kind: "late-sub-channels"; readonly delayMs: number }
    /** Only so many of them are offered. */
    | { readonly kind: "fewer-sub-channels"; readonly offered: number }
    /** Each of them is offered twice. */
    | { readonly kind: "repeated-sub-channels" }
    /** A sub-channel goes away under load; and is offered again, if a number is given. */
    | { readonly kind: "rescind-sub-channel"; readonly reofferAfterMs?: number }
    /** The host refuses a version that it has, and those above it. */
    | { readonly kind: "refused-version"; readonly version: ProtocolVersion }
    /** A frame is lost in the switch. */
    | { readonly kind: "dropped-frame" }
    | { readonly kind: "duplicate-frame" }
    /** A frame is overtaken by those behind it. */
    | { readonly kind: "late-frame"; readonly delayMs: number }
    /** A byte of a frame is wrong: the one at `offset`, or the last. Its checksum is not made to fit. */
    | { readonly kind: "corrupt-frame"; readonly offset?: number }
    /** The guest is told the opposite of what the checksums of a frame are. */
    | { readonly kind: "wrong-checksum-flags" }
    /** The link of the port goes down for a while. */
    | { readonly kind: "link-flap"; readonly downMs: number }
    /** A send is done, but completed with a failure. */
    | { readonly kind: "failed-completion" }
    /** A completion comes for what the guest has not sent, before the right one. */
    | { readonly kind: "stray-completion" }
    /** The message that holds a frame for the guest is wrong. */
    | { readonly kind: "malformed-rndis"; readonly damage: RndisDamage }
    /** The packet that tells the guest of a frame is wrong. */
    | { readonly kind: "malformed-transfer"; readonly damage: TransferDamage }
    /** An integration component's request is sent after a while. */
    | { readonly kind: "late-request"; readonly delayMs: number }
    /** It is sent twice, the second time while the first is outstanding. */
    | { readonly kind: "repeated-request" }
    /** Versions are agreed on anew while it is outstanding: it fails. */
    | { readonly kind: "renegotiation" }
    /** Before it comes one whose frame is wrong. */
    | { readonly kind: "malformed-message"; readonly damage: MessageDamage }
    /** Before a request for key-value pairs comes one that is wrong. */
    | { readonly kind: "malformed-kvp"; readonly damage: KvpDamage }
  );

/** Name of a kind of fault. */
export type FaultKind = Fault["kind"];

/** The point at which each kind is asked for. A rescind that names no request happens by time instead. */
export const faultPoints = {
  "late-completion": "device.complete",
  "lost-completion": "device.complete",
  "duplicate-completion": "device.complete",
  "short-transfer": "device.request",
  "check-condition": "device.request",
  rescind: "device.request",
  "stalled-ring": "channel.poll",
  "late-sub-channels": "sub-channel.offer",
  "fewer-sub-channels": "sub-channel.offer",
  "repeated-sub-channels": "sub-channel.offer",
  "rescind-sub-channel": "sub-channel.packet",
  "refused-version": "bus.version",
  "dropped-frame": "switch.frame",
  "duplicate-frame": "switch.frame",
  "late-frame": "switch.frame",
  "corrupt-frame": "switch.frame",
  "wrong-checksum-flags": "switch.frame",
  "link-flap": "switch.frame",
  "failed-completion": "network.complete",
  "stray-completion": "network.complete",
  "malformed-rndis": "network.receive",
  "malformed-transfer": "network.receive",
  "late-request": "component.request",
  "repeated-request": "component.request",
  renegotiation: "component.request",
  "malformed-message": "component.request",
  "malformed-kvp": "kvp.request",
} as const satisfies Readonly<Record<FaultKind, FaultPoint>>;

/** The faults that a point can answer. */
export type FaultAt<P extends FaultPoint> = Extract<
  Fault,
  { kind: { [K in FaultKind]: (typeof faultPoints)[K] extends P ? K : never }[FaultKind] }
>;

/** What is going on at a point; a caller may fill the same object again and again. */
export interface FaultContext {
  classId?: Guid;
  instanceId?: Guid;
  lun?: number;
  operation?: FaultOperation;
  version?: ProtocolVersion;
}

/** A fault plan as data. */
export interface FaultPlanData {
  /** For faults with a probability; 0 unless given. */
  readonly seed?: number;
  readonly faults: readonly Fault[];
}

/** A fault of a plan, and how often it has happened. */
export interface FaultStats extends Pick<FaultSelector, "device" | "lun" | "operation"> {
  readonly kind: FaultKind;
  readonly happened: number;
}

/**
 * What has become of a plan's faults, in its order.
 *
 * @param counts - `FaultPlan.counts` of each thread that follows the plan.
 */
export function faultStats(
  { faults }: FaultPlanData,
  counts: readonly (readonly number[])[],
): FaultStats[] {
  return faults.map(({ kind, device, lun, operation }, index) => ({
    kind,
    ...(device !== undefined && { device }),
    ...(lun !== undefined && { lun }),
    ...(operation !== undefined && { operation }),
    happened: counts.reduce((sum, ofThread) => sum + (ofThread[index] ?? 0), 0),
  }));
}

/** True for a rescind that happens at a time, whatever the guest does. */
export function isTimed(fault: FaultSelector): boolean {
  return (
    fault.lun === undefined &&
    fault.operation === undefined &&
    fault.nth === undefined &&
    fault.every === undefined &&
    fault.probability === undefined
  );
}

/**
 * Decides when the host misbehaves. Deterministic: the same questions in the same order, and the same
 * clock, give the same answers.
 *
 * Each thread of the host has a plan of its own, made from the same data, and counts occasions for
 * itself; a fault that names its device is counted in one place, since a device belongs to one thread.
 */
export class FaultPlan {
  readonly #clock: Clock;
  #startMs = 0;
  #faults: readonly Fault[] = [];
  #counts: number[] = [];
  readonly #armed = new Map<FaultPoint, ArmedFault[]>();
  #timed: (Fault & { kind: "rescind" })[] = [];

  constructor(data: FaultPlanData, clock: Clock) {
    this.#clock = clock;
    this.replace(data);
  }

  /** Begins anew with other faults: occasions, counts and time count from now on. */
  replace(data: FaultPlanData): void {
    this.#startMs = this.#clock.now();
    this.#faults = data.faults;
    this.#counts = data.faults.map(() => 0);
    this.#armed.clear();
    this.#timed = [];
    for (const [index, fault] of data.faults.entries()) {
      if (fault.kind === "rescind" && isTimed(fault)) {
        this.#timed.push(fault);
        continue;
      }
      const point = faultPoints[fault.kind];
      const list = this.#armed.get(point) ?? [];
      list.push(new ArmedFault(fault, (data.seed ?? 0) + index));
      this.#armed.set(point, list);
    }
  }

  /** A plan without faults. */
  static none(clock: Clock): FaultPlan {
    return new FaultPlan({ faults: [] }, clock);
  }

  /** True if a fault could ever happen at this point: a cheap question for hot paths. */
  isArmed(point: FaultPoint): boolean {
    return this.#armed.has(point);
  }

  /** The fault that happens now, at this point; undefined, almost always, for none. */
  at<P extends FaultPoint>(point: P, context: FaultContext): FaultAt<P> | undefined {
    const armed = this.#armed.get(point);
    if (armed === undefined) return undefined;
    const elapsedMs = this.#clock.now() - this.#startMs;
    let happens: Fault | undefined;
    for (const candidate of armed)
      if (candidate.occasion(context, elapsedMs, happens === undefined)) happens = candidate.fault;
    if (happens !== undefined) this.count(happens);
    return happens as FaultAt<P> | undefined;
  }

  /** Counts a fault of this plan as having happened; `at` has done so for those that it returns. */
  count(fault: Fault): void {
    this.#counts[this.#faults.indexOf(fault)]!++;
  }

  /** How often each fault of the plan has happened on this thread, in its order. */
  get counts(): readonly number[] {
    return this.#counts;
  }

  /** The rescinds that happen at a time; for whoever keeps the offers. */
  get timedRescinds(): readonly (Fault & { kind: "rescind" })[] {
    return this.#timed;
  }
}

/** A fault with what has happened so far. */
class ArmedFault {
  readonly fault: Fault;
  #occasions = 0;
  #happened = 0;
  #random: number;

  constructor(fault: Fault, seed: number) {
    this.fault = fault;
    this.#random = Math.imul(seed, 0x9e37_79b1) >>> 0;
  }

  /** Counts an occasion; true if the fault happens. @param free - false if another fault happens already. */
  occasion(context: FaultContext, elapsedMs: number, free: boolean): boolean {
    const { fault } = this;
    if (elapsedMs < (fault.afterMs ?? 0) || !matches(fault, context)) return false;
    const number = ++this.#occasions;
    const drawn = fault.probability === undefined || this.#draw() < fault.probability;
    if (!free || !drawn) return false;
    if (fault.nth !== undefined && number !== fault.nth) return false;
    if (fault.every !== undefined && number % fault.every !== 0) return false;
    if (this.#happened >= (fault.count ?? Infinity)) return false;
    this.#happened++;
    return true;
  }

  /** The next number in [0, 1): mulberry32. */
  #draw(): number {
    this.#random = (this.#random + 0x6d2b_79f5) >>> 0;
    let x = this.#random;
    x = Math.imul(x ^ (x >>> 15), x | 1);
    x ^= x + Math.imul(x ^ (x >>> 7), x | 61);
    return ((x ^ (x >>> 14)) >>> 0) / 2 ** 32;
  }
}

function matches(fault: Fault, context: FaultContext): boolean {
  if (fault.device !== undefined && !isDevice(fault.device, context)) return false;
  if (fault.lun !== undefined && fault.lun !== context.lun) return false;
  if (fault.operation !== undefined && fault.operation !== context.operation) return false;
  // A host that refuses a version is an older one: it does not know those above either.
  return fault.kind !== "refused-version" || (context.version ?? 0) >= fault.version;
}

/** True if a fault's `device` means this one. @param device - as in `FaultSelector`. */
export function isDevice(device: string, { classId, instanceId }: FaultContext): boolean {
  return (
    device === instanceId ||
    device === classId ||
    (classId !== undefined && deviceClassName.get(classId) === device)
  );
}

const deviceClassName: ReadonlyMap<Guid, string> = new Map(
  Object.entries(DeviceClass).map(([name, row]) => [row.classId, name]),
);
