/** What a field of a record from JSON must be. */
export type FieldRule = { readonly required?: boolean } & (
  | { readonly type: "integer" | "number"; readonly least: number; readonly most?: number }
  | {
      readonly type: "text";
      /** What would have been right, for the message. */
      readonly expected: string;
      /** The value that the text means; undefined if it means none. */
      readonly parse: (text: string) => unknown;
    }
  | { readonly type: "list" }
  | { readonly type: "boolean" }
);

/**
 * Checks an object from JSON against rules, field by field.
 *
 * @param at - Where the object is, for the messages; empty for the whole document.
 * @param problems - Gets a line per mistake.
 * @returns The parsed fields; undefined if it is no object. Fields with mistakes are left out.
 */
export function parseRecord(
  at: string,
  value: unknown,
  rules: Readonly<Record<string, FieldRule>>,
  problems: string[],
): Readonly<Record<string, unknown>> | undefined {
  if (typeof value !== "object" || value === null || Array.isArray(value)) {
    problems.push(`${at === "" ? "the document" : at}: must be an object`);
    return undefined;
  }
  const place = (name: string): string => (at === "" ? name : `${at}.${name}`);
  const parsed: Record<string, unknown> = {};
  for (const [name, field] of Object.entries(value)) {
    const rule = Object.hasOwn(rules, name) ? rules[name] : undefined;
    if (rule === undefined) {
      const known = Object.keys(rules).join(", ");
      problems.push(`${place(name)}: is not known here; known are ${known}`);
      continue;
    }
    const result = parseField(field, rule);
    if (result.kind === "ok") parsed[name] = result.value;
    else problems.push(`${place(name)}: must be ${result.expected}, not ${JSON.stringify(field)}`);
  }
  for (const [name, rule] of Object.entries(rules))
    if (rule.required === true && !Object.hasOwn(value, name))
      problems.push(`${place(name)}: is missing`);
  return parsed;
}

type FieldOutcome =
  | { readonly kind: "ok"; readonly value: unknown }
  | { readonly kind: "wrong"; readonly expected: string };

function parseField(value: unknown, rule: FieldRule): FieldOutcome {
  switch (rule.type) {
    case "integer":
    case "number": {
      const { type, least, most = Infinity } = rule;
      const fits = type === "integer" ? Number.isInteger(value) : Number.isFinite(value);
      if (fits && (value as number) >= least && (value as number) <= most)
        return { kind: "ok", value };
      const noun = type === "integer" ? "an integer" : "a number";
      const range = most === Infinity ? `of at least ${least}` : `from ${least} to ${most}`;
      return { kind: "wrong", expected: `${noun} ${range}` };
    }
    case "text": {
      const parsed = typeof value === "string" ? rule.parse(value) : undefined;
      if (parsed !== undefined) return { kind: "ok", value: parsed };
      return { kind: "wrong", expected: rule.expected };
    }
    case "boolean":
      if (typeof value === "boolean") return { kind: "ok", value };
      return { kind: "wrong", expected: "true or false" };
    case "list":
      return Array.isArray(value) ? { kind: "ok", value } : { kind: "wrong", expected: "a list" };
  }
}
