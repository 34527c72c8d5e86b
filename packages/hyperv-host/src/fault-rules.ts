import { VmbusError } from "@hyperv-is/vmbus-core";
import { DeviceClass, parseGuid, parseVersion } from "@hyperv-is/vmbus-core/protocol";
import {
  faultOperations,
  isTimed,
  type Fault,
  type FaultKind,
  type FaultPlanData,
  type FaultSelector,
} from "./faults.js";
import { parseRecord, type FieldRule } from "./field-rules.js";
import { kvpDamages, messageDamages } from "./integration/damage.js";
import { rndisDamages, transferDamages } from "./netvsp/damage.js";

/** A fault plan that cannot be understood. */
export class FaultPlanError extends VmbusError<"ERR_FAULT_PLAN"> {
  /** One line per mistake, beginning with where it is. */
  readonly problems: readonly string[];

  constructor(problems: readonly string[]) {
    super("ERR_FAULT_PLAN", `the fault plan is wrong: ${problems.join("; ")}`);
    this.problems = problems;
  }
}

const count = { type: "integer", least: 1 } as const;
const milliseconds = { type: "number", least: 0 } as const;
const byte = { type: "integer", least: 0, most: 255 } as const;

const deviceNames: readonly string[] = Object.keys(DeviceClass);

const device: FieldRule = {
  type: "text",
  expected: `a GUID, or one of ${deviceNames.join(", ")}`,
  parse: (text) => parseGuid(text) ?? (deviceNames.includes(text) ? text : undefined),
};

/** A text that is one of several. */
function oneOf(names: readonly string[]): FieldRule {
  return {
    type: "text",
    expected: `one of ${names.join(", ")}`,
    parse: (text) => names.find((name) => name === text),
  };
}

const selectorFields: Readonly<Record<keyof FaultSelector, FieldRule>> = {
  device,
  lun: { type: "integer", least: 0 },
  operation: oneOf(faultOperations),
  nth: count,
  every: count,
  probability: { type: "number", least: 0, most: 1 },
  count,
  afterMs: milliseconds,
};

/** Fields of each kind besides the selectors. */
const kindFields: Readonly<Record<FaultKind, Readonly<Record<string, FieldRule>>>> = {
  "late-completion": { delayMs: { ...milliseconds, required: true } },
  "lost-completion": {},
  "duplicate-completion": {},
  "short-transfer": { bytes: { type: "integer", least: 0, required: true } },
  "check-condition": {
    senseKey: { type: "integer", least: 0, most: 15, required: true },
    additionalCode: { ...byte, required: true },
    additionalQualifier: { ...byte, required: true },
  },
  "stalled-ring": { durationMs: { ...milliseconds, required: true } },
  rescind: { reofferAfterMs: milliseconds },
  "late-sub-channels": { delayMs: { ...milliseconds, required: true } },
  "fewer-sub-channels": { offered: { type: "integer", least: 0, required: true } },
  "repeated-sub-channels": {},
  "rescind-sub-channel": { reofferAfterMs: milliseconds },
  "refused-version": {
    version: {
      type: "text",
      expected: 'a protocol version such as "5.3"',
      parse: parseVersion,
      required: true,
    },
  },
  "dropped-frame": {},
  "duplicate-frame": {},
  "late-frame": { delayMs: { ...milliseconds, required: true } },
  "corrupt-frame": { offset: { type: "integer", least: 0 } },
  "wrong-checksum-flags": {},
  "link-flap": { downMs: { ...milliseconds, required: true } },
  "failed-completion": {},
  "stray-completion": {},
  "malformed-rndis": { damage: { ...oneOf(rndisDamages), required: true } },
  "malformed-transfer": { damage: { ...oneOf(transferDamages), required: true } },
  "late-request": { delayMs: { ...milliseconds, required: true } },
  "repeated-request": {},
  renegotiation: {},
  "malformed-message": { damage: { ...oneOf(messageDamages), required: true } },
  "malformed-kvp": { damage: { ...oneOf(kvpDamages), required: true } },
};

/** Names of all kinds of faults. */
export const faultKinds = Object.keys(kindFields) as readonly FaultKind[];

/**
 * Understands a fault plan from JSON.
 *
 * @param value - `{ seed?, faults: [{ kind, ... }] }`; unknown fields are mistakes. A version is text ("5.3").
 * @throws FaultPlanError `ERR_FAULT_PLAN` that lists every mistake with its place.
 */
export function parseFaultPlan(value: unknown): FaultPlanData {
  const problems: string[] = [];
  const plan = parseRecord("", value, planFields, problems);
  const list = plan?.["faults"] as readonly unknown[] | undefined;
  const faults = list?.flatMap((fault, index) => {
    const parsed = parseFault(`faults[${index}]`, fault, problems);
    return parsed === undefined ? [] : [parsed];
  });
  if (faults === undefined || problems.length > 0) throw new FaultPlanError(problems);
  const seed = plan?.["seed"] as number | undefined;
  return { ...(seed !== undefined && { seed }), faults };
}

const planFields: Readonly<Record<string, FieldRule>> = {
  seed: { type: "integer", least: 0, most: 0xffff_ffff },
  faults: { type: "list", required: true },
};

function parseFault(at: string, value: unknown, problems: string[]): Fault | undefined {
  const kind = (value as { readonly kind?: unknown } | null | undefined)?.kind;
  const known = faultKinds.find((name) => name === kind);
  if (known === undefined) {
    problems.push(`${at}.kind: must be one of ${faultKinds.join(", ")}`);
    return undefined;
  }
  const kindRule: FieldRule = { type: "text", expected: known, parse: (text) => text };
  const fields = { kind: kindRule, ...selectorFields, ...kindFields[known] };
  const fault = parseRecord(at, value, fields, problems) as Fault | undefined;
  if (fault?.kind === "rescind" && isTimed(fault) && fault.device === undefined)
    problems.push(`${at}.device: is missing; a rescind that names no request needs it`);
  return fault;
}
