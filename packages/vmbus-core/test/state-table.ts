import { expect, test } from "vitest";
import type { Step } from "../src/bus/machine.js";

type Plain = Readonly<Record<string, unknown>>;

/** `open-failed ERR_TIMEOUT, closed → stuck`: the effects of a step, then the state with what it carries. */
export function show({ state, effects }: Step<object, object>): string {
  const done = effects.map((effect) => values(effect as Plain, "kind")).join(", ");
  return `${done}${done === "" ? "" : " "}→ ${values(state as Plain, "name")}`;
}

function values(record: Plain, first: string): string {
  const rest = Object.entries(record)
    .filter(([key, value]) => key !== first && value !== undefined)
    .map(([key, value]) => (key === "code" ? String(value) : `${key}=${JSON.stringify(value)}`));
  return [record[first], ...rest].join(" ");
}

/**
 * Tests a machine as a table: what each state makes of each input.
 * A table that lacks a state or an input does not compile, so nothing illegal is left out.
 */
export function testTable<
  State extends object,
  Input,
  StateName extends string,
  InputName extends string,
>(
  states: Readonly<Record<StateName, State>>,
  inputs: Readonly<Record<InputName, Input>>,
  transition: (state: State, input: Input) => Step<State, object>,
  table: Readonly<Record<StateName, Readonly<Record<InputName, string>>>>,
): void {
  for (const state of Object.keys(states) as StateName[])
    test(`in state ${state}`, () => {
      const actual = Object.fromEntries(
        (Object.keys(inputs) as InputName[]).map((input) => [
          input,
          show(transition(states[state], inputs[input])),
        ]),
      );
      expect(actual).toEqual(table[state]);
    });
}
