import { step, type Step, type SystemServices } from "@hyperv-is/vmbus-core";
import type { IcChannel, IcService } from "./ic-channel.js";
import type { IcRequest } from "./ic-session.js";
import {
  frameworkVersions,
  IcMessageType,
  IcStatus,
  NT_TO_UNIX_100NS,
  parseTimeSync,
  parseTimeSync4,
  TIME_SYNC_V4,
  TimeSyncFlag,
  timeSyncVersions,
  type IcVersion,
  type IcVersions,
} from "./protocol/index.js";

/** FreeBSD's tunables `hw.hvtimesync.*`, which may change at any time. */
export interface TimeSyncSettings {
  /** `ignore_sync`: requests to set the clock change nothing. */
  readonly ignoreSync: boolean;
  /** `sample_thresh`: a sample sets the clock when the two differ by more milliseconds; negative: never. */
  readonly sampleThresholdMs: number;
  /** `sample_verbose`: each sample is told of. */
  readonly sampleVerbose: boolean;
}

/** What is known of the host's clock. */
export interface TimeSyncState {
  /** Requests with the flags sync, sample, and neither. */
  readonly syncs: number;
  readonly samples: number;
  readonly probes: number;
  /** How often the clock was set. */
  readonly steps: number;
  /** How far the guest's clock was ahead of the host's when the host last told the time; undefined before. */
  readonly offsetNs: bigint | undefined;
  /** How long that message had taken; 0 below version 4.0. */
  readonly delayNs: bigint;
}

/** A message of the host, and the guest's clocks when it was read. */
export interface TimeSyncInput {
  readonly body: Uint8Array;
  /** The agreed message version. */
  readonly version: IcVersion;
  /** The guest's wall clock, in nanoseconds since 1970. */
  readonly realTimeNs: bigint;
  /** The reference counter, in 100 ns units; undefined if there is none. */
  readonly referenceTime: bigint | undefined;
}

/** What its owner has to do, in this order. */
export type TimeSyncEffect =
  | { readonly kind: "log"; readonly line: string }
  /** Step the wall clock to so many nanoseconds since 1970. */
  | { readonly kind: "set"; readonly timeNs: bigint }
  | { readonly kind: "answer"; readonly status: IcStatus; readonly body: Uint8Array };

/** The state before the first message. */
export const timeSyncStart: TimeSyncState = {
  syncs: 0,
  samples: 0,
  probes: 0,
  steps: 0,
  offsetNs: undefined,
  delayNs: 0n,
};

const NS_PER_100NS = 100n;
const NS_PER_MS = 1_000_000n;

/** What both bodies say. */
interface HostTime {
  readonly parentTime: bigint;
  /** Absent below 4.0. */
  readonly referenceTime?: bigint;
  readonly flags: number;
}

/**
 * What a guest does about its clock when the host tells the time: as FreeBSD's driver, it steps the clock, or leaves
 * it alone; it never slews. A message that cannot be understood, or whose time is before 1970, is refused.
 */
export function stepTimeSync(
  state: TimeSyncState,
  { body, version, realTimeNs, referenceTime }: TimeSyncInput,
  settings: TimeSyncSettings,
): Step<TimeSyncState, TimeSyncEffect> {
  const told: HostTime | undefined =
    version >= TIME_SYNC_V4 ? parseTimeSync4(body) : parseTimeSync(body);
  const unix = (told?.parentTime ?? 0n) - NT_TO_UNIX_100NS;
  if (told === undefined || unix < 0n)
    return step(state, {
      kind: "answer",
      status: IcStatus.invalidArgument,
      body: new Uint8Array(),
    });
  const underWay = (referenceTime ?? 0n) - (told.referenceTime ?? referenceTime ?? 0n);
  // The counter starts anew with the machine; a message from before says nothing of the way it took.
  const delayNs = underWay > 0n ? underWay * NS_PER_100NS : 0n;
  const hostNs = unix * NS_PER_100NS + delayNs;
  const offsetNs = realTimeNs - hostNs;
  const isSync = (told.flags & TimeSyncFlag.sync) !== 0;
  const isSample = (told.flags & TimeSyncFlag.sample) !== 0;
  const effects: TimeSyncEffect[] = [];
  let sets = isSync && !settings.ignoreSync;
  if (!sets && isSample && settings.sampleThresholdMs >= 0) {
    if (settings.sampleVerbose)
      effects.push({ kind: "log", line: `sample request, hv: ${hostNs}, vm: ${realTimeNs}` });
    const apartMs = (offsetNs < 0n ? -offsetNs : offsetNs) / NS_PER_MS;
    sets = apartMs > BigInt(settings.sampleThresholdMs);
  }
  if (sets) effects.push({ kind: "set", timeNs: hostNs });
  return step<TimeSyncState, TimeSyncEffect>(
    {
      syncs: state.syncs + (isSync ? 1 : 0),
      samples: state.samples + (isSample ? 1 : 0),
      probes: state.probes + (isSync || isSample ? 0 : 1),
      steps: state.steps + (sets ? 1 : 0),
      offsetNs,
      delayNs,
    },
    ...effects,
    { kind: "answer", status: IcStatus.ok, body },
  );
}

/** What time synchronisation needs of the kernel. */
export interface TimeSyncContext {
  log(line: string): void;
  tunable(name: string): number | undefined;
  readonly system: Pick<SystemServices, "realTime" | "referenceTime">;
}

/** Has the guest's wall clock follow the host's. */
export class TimeSyncService implements IcService {
  readonly type = IcMessageType.timeSync;
  readonly frameworks = frameworkVersions;
  readonly messages = timeSyncVersions;
  readonly #channel: IcChannel;
  readonly #context: TimeSyncContext;
  #state = timeSyncStart;

  constructor(channel: IcChannel, context: TimeSyncContext) {
    this.#channel = channel;
    this.#context = context;
  }

  get state(): TimeSyncState {
    return this.#state;
  }

  agreed({ message }: IcVersions): void {
    const { system } = this.#context;
    if (message >= TIME_SYNC_V4 && system.referenceTime() !== undefined) this.#context.log("RTT");
  }

  request(request: IcRequest, { message: version }: IcVersions): void {
    const { system } = this.#context;
    const { body } = request.message;
    const input: TimeSyncInput = {
      body,
      version,
      realTimeNs: system.realTime.nowNs(),
      referenceTime: system.referenceTime(),
    };
    const { state, effects } = stepTimeSync(this.#state, input, this.#settings());
    this.#state = state;
    for (const effect of effects) {
      if (effect.kind === "log") this.#context.log(effect.line);
      else if (effect.kind === "set") system.realTime.set(effect.timeNs);
      else this.#channel.respond(request, effect.status, effect.body);
    }
  }

  #settings(): TimeSyncSettings {
    const tunable = (name: string, value: number): number =>
      this.#context.tunable(`hw.hvtimesync.${name}`) ?? value;
    return {
      ignoreSync: tunable("ignore_sync", 0) !== 0,
      sampleThresholdMs: tunable("sample_thresh", 100),
      sampleVerbose: tunable("sample_verbose", 0) !== 0,
    };
  }
}
