import {
  NtStatus,
  VstorOperation,
  findVstorVersion,
  type VstorVersion,
} from "@hyperv-is/hv-storvsc/protocol";

/** How far a guest has come on the primary channel of a controller. */
export type Initialization =
  | { readonly name: "begin" }
  | { readonly name: "query-version" }
  | { readonly name: "query-properties"; readonly version: VstorVersion }
  | {
      readonly name: "end-initialization";
      readonly version: VstorVersion;
      /** Set by a CREATE_SUB_CHANNELS before the end, as Windows guests send it. */
      readonly subChannels?: number;
    }
  | { readonly name: "ready"; readonly version: VstorVersion };

/** What a controller allows. */
export interface InitializationLimits {
  /** u16 values of the protocol versions that are accepted. */
  readonly versions: readonly number[];
  /** Sub-channels that a guest may ask for. */
  readonly subChannelsMax: number;
}

/** Operations of the initialization, with what each brings along. */
export type InitializationInput =
  | {
      readonly operation:
        | typeof VstorOperation.beginInitialization
        | typeof VstorOperation.queryProperties
        | typeof VstorOperation.endInitialization;
    }
  | { readonly operation: typeof VstorOperation.queryProtocolVersion; readonly version: number }
  | { readonly operation: typeof VstorOperation.createSubChannels; readonly count: number };

export interface InitializationStep {
  readonly state: Initialization;
  readonly status: NtStatus;
  /** Sub-channels to be offered now. */
  readonly offerSubChannels?: number;
}

/**
 * One operation of the initialization: what the host answers, and how far the guest is then. An operation
 * in the wrong state changes nothing. Source: OpenVMM's storvsp.
 */
export function stepInitialization(
  state: Initialization,
  input: InitializationInput,
  limits: InitializationLimits,
): InitializationStep {
  const refuse = (status: NtStatus): InitializationStep => ({ state, status });
  const go = (next: Initialization): InitializationStep => ({
    state: next,
    status: NtStatus.success,
  });
  switch (input.operation) {
    case VstorOperation.beginInitialization:
      return state.name === "begin" ? go({ name: "query-version" }) : wrongState(state);
    case VstorOperation.queryProtocolVersion: {
      if (state.name !== "query-version") return wrongState(state);
      const version = findVstorVersion(input.version);
      if (version === undefined || !limits.versions.includes(version.value))
        return refuse(NtStatus.revisionMismatch);
      return go({ name: "query-properties", version });
    }
    case VstorOperation.queryProperties:
      return state.name === "query-properties"
        ? go({ name: "end-initialization", version: state.version })
        : wrongState(state);
    case VstorOperation.endInitialization:
      return state.name === "end-initialization"
        ? go({ name: "ready", version: state.version })
        : wrongState(state);
    case VstorOperation.createSubChannels: {
      const early = state.name === "end-initialization" && state.version.multiChannel;
      if (state.name !== "ready" && !(early && state.subChannels === undefined))
        return wrongState(state);
      const most = state.version.multiChannel ? limits.subChannelsMax : 0;
      if (input.count > most) return refuse(NtStatus.invalidParameter);
      const next = state.name === "ready" ? state : { ...state, subChannels: input.count };
      return { state: next, status: NtStatus.success, offerSubChannels: input.count };
    }
  }
}

function wrongState(state: Initialization): InitializationStep {
  return { state, status: NtStatus.invalidDeviceState };
}
