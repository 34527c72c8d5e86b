import { describe, expect, test } from "vitest";
import {
  NtStatus,
  VstorOperation,
  findVstorVersion,
  vstorVersions,
} from "@hyperv-is/hv-storvsc/protocol";
import { stepInitialization, type Initialization } from "@hyperv-is/hyperv-host";
import type { InitializationInput } from "../src/storvsp/initialization.js";

const limits = { versions: [0x0200, 0x0402, 0x0501, 0x0600], subChannelsMax: 4 };
const blue = findVstorVersion(0x0600)!;
const win7 = findVstorVersion(0x0402)!;

const states: readonly Initialization[] = [
  { name: "begin" },
  { name: "query-version" },
  { name: "query-properties", version: blue },
  { name: "end-initialization", version: blue },
  { name: "end-initialization", version: blue, subChannels: 2 },
  { name: "end-initialization", version: win7 },
  { name: "ready", version: blue },
  { name: "ready", version: win7 },
];

const inputs: readonly InitializationInput[] = [
  { operation: VstorOperation.beginInitialization },
  { operation: VstorOperation.queryProtocolVersion, version: 0x0600 },
  { operation: VstorOperation.queryProperties },
  { operation: VstorOperation.endInitialization },
  { operation: VstorOperation.createSubChannels, count: 3 },
];

const X = "wrong state";
/** New state for each state (rows) and input (columns); `X` refuses. */
const expected: readonly (readonly string[])[] = [
  ["query-version", X, X, X, X],
  [X, "query-properties", X, X, X],
  [X, X, "end-initialization", X, X],
  [X, X, X, "ready", "end-initialization"],
  [X, X, X, "ready", X],
  [X, X, X, "ready", X],
  [X, X, X, X, "ready"],
  [X, X, X, X, "invalid parameter"],
];

describe("initialization of a controller: every operation in every state", () => {
  const cases = states.flatMap((state, row) =>
    inputs.map((input, column) => [state, input, expected[row]![column]!] as const),
  );
  test.each(cases)("%o with %o: %s", (state, input, wanted) => {
    const step = stepInitialization(state, input, limits);
    if (wanted === X || wanted === "invalid parameter") {
      expect(step.state).toBe(state);
      expect(step.offerSubChannels).toBeUndefined();
      expect(step.status).toBe(
        wanted === X ? NtStatus.invalidDeviceState : NtStatus.invalidParameter,
      );
    } else {
      expect(step.status).toBe(NtStatus.success);
      expect(step.state.name).toBe(wanted);
      const asked = input.operation === VstorOperation.createSubChannels;
      expect(step.offerSubChannels).toBe(asked ? 3 : undefined);
    }
  });

  test("a refused version leaves the guest where it can try the next", () => {
    const state: Initialization = { name: "query-version" };
    for (const version of [0x0602, 0x0100, 0xffff]) {
      const input = { operation: VstorOperation.queryProtocolVersion, version } as const;
      expect(stepInitialization(state, input, limits)).toEqual({
        state,
        status: NtStatus.revisionMismatch,
      });
    }
    for (const { value } of vstorVersions.filter((row) => limits.versions.includes(row.value))) {
      const input = { operation: VstorOperation.queryProtocolVersion, version: value } as const;
      expect(stepInitialization(state, input, limits).status).toBe(NtStatus.success);
    }
  });

  test("more sub-channels than there may be are refused, and the state stays", () => {
    const state: Initialization = { name: "ready", version: blue };
    const input = { operation: VstorOperation.createSubChannels, count: 5 } as const;
    expect(stepInitialization(state, input, limits)).toEqual({
      state,
      status: NtStatus.invalidParameter,
    });
  });
});
