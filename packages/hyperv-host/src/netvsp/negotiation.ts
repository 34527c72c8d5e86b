import {
  NdisConfigMtu,
  NvspType,
  findNvspVersion,
  type NvspVersion,
} from "@hyperv-is/hv-netvsc/protocol";

/** What a guest has said of itself so far, on the primary channel. */
export interface Configuration {
  readonly version: NvspVersion;
  /** Largest frame in bytes, Ethernet header included. */
  readonly mtu?: number;
  /** `NdisConfigCapability` bits. */
  readonly capabilities?: number;
  readonly ndisVersion?: { readonly major: number; readonly minor: number };
  readonly receiveBuffer?: true;
  readonly sendBuffer?: true;
}

/** How far the negotiation of NVSP is. */
export type Negotiation =
  | { readonly name: "init" }
  | ({ readonly name: "configuring" } & Configuration)
  /** RNDIS messages may come, and nothing of the negotiation any more. */
  | ({ readonly name: "ready" } & Configuration);

/** Messages of the negotiation, with what each brings along, and those that end it. */
export type NegotiationInput =
  | { readonly kind: "init"; readonly version: number }
  | { readonly kind: "ndis-config"; readonly mtu: number; readonly capabilities: number }
  | { readonly kind: "ndis-version"; readonly major: number; readonly minor: number }
  | { readonly kind: "receive-buffer" }
  | { readonly kind: "send-buffer" }
  | { readonly kind: "rndis" }
  /** Of an adapter at work: sub-channels, data path, revocation, object queries. */
  | { readonly kind: "operation" };

/** What becomes of a message. */
export type NegotiationOutcome =
  | "accepted"
  /** Answered with a failure; the guest may try another. */
  | "refused"
  /** It must not come now: the channel ends. */
  | "unexpected";

export interface NegotiationStep {
  readonly state: Negotiation;
  readonly outcome: NegotiationOutcome;
}

/**
 * One message on the primary channel: what becomes of it, and how far the guest is then. Source: OpenVMM's netvsp.
 *
 * @param versions - u32 values of those that are accepted.
 */
export function stepNegotiation(
  state: Negotiation,
  input: NegotiationInput,
  versions: readonly number[],
): NegotiationStep {
  const unexpected: NegotiationStep = { state, outcome: "unexpected" };
  if (state.name === "init") {
    if (input.kind !== "init") return unexpected;
    const version = findNvspVersion(input.version);
    if (version === undefined || !versions.includes(version.value))
      return { state, outcome: "refused" };
    return { state: { name: "configuring", version }, outcome: "accepted" };
  }
  if (state.name === "ready")
    return input.kind === "rndis" || input.kind === "operation"
      ? { state, outcome: "accepted" }
      : unexpected;
  switch (input.kind) {
    case "init":
    case "operation":
      return unexpected;
    case "ndis-config":
      if (state.mtu !== undefined) return unexpected;
      return learn(state, { mtu: usableMtu(input.mtu), capabilities: input.capabilities });
    case "ndis-version": {
      if (state.ndisVersion !== undefined) return unexpected;
      const { major, minor } = input;
      return learn(state, { ndisVersion: { major, minor } });
    }
    case "receive-buffer":
      // Its division depends on the MTU.
      if (state.receiveBuffer === true || lacksConfig(state)) return unexpected;
      return learn(state, { receiveBuffer: true });
    case "send-buffer":
      return state.sendBuffer === true ? unexpected : learn(state, { sendBuffer: true });
    case "rndis":
      // A guest that begins without a send buffer will not have one: UEFI does that.
      return isComplete(state)
        ? { state: { ...state, name: "ready" }, outcome: "accepted" }
        : unexpected;
  }
}

type Configuring = Negotiation & { readonly name: "configuring" };

function learn(state: Configuring, news: Partial<Configuration>): NegotiationStep {
  const next = { ...state, ...news };
  const isReady = isComplete(next) && next.sendBuffer === true;
  return { state: isReady ? { ...next, name: "ready" } : next, outcome: "accepted" };
}

/** True if nothing is missing but, perhaps, the send buffer. */
function isComplete(state: Configuring): boolean {
  return state.ndisVersion !== undefined && state.receiveBuffer === true && !lacksConfig(state);
}

function lacksConfig({ version, mtu }: Configuring): boolean {
  return version.ndisConfig && mtu === undefined;
}

function usableMtu(mtu: number): number {
  return mtu >= NdisConfigMtu.min && mtu <= NdisConfigMtu.max ? mtu : NdisConfigMtu.default;
}

const [V1, V2, V4, V5] = [0x2, 0x3_0002, 0x4_0000, 0x5_0000] as const;

/** The oldest version that has each message of a guest. */
const messageSince: ReadonlyMap<number, number> = new Map<number, number>([
  [NvspType.sendNdisVersion, V1],
  [NvspType.sendReceiveBuffer, V1],
  [NvspType.revokeReceiveBuffer, V1],
  [NvspType.sendSendBuffer, V1],
  [NvspType.revokeSendBuffer, V1],
  [NvspType.sendRndisPacket, V1],
  [NvspType.sendNdisConfig, V2],
  [NvspType.switchDataPath, V4],
  [NvspType.oidQueryEx, V5],
  [NvspType.subChannel, V5],
]);

/** True if a guest may send this message in this version; undefined is before the negotiation. */
export function isKnownMessage(type: number, version: NvspVersion | undefined): boolean {
  if (type === NvspType.init) return true;
  const least = messageSince.get(type);
  return least !== undefined && version !== undefined && version.value >= least;
}
