import { describe, expect, test } from "vitest";
import { channelTable, type ChannelState } from "../src/index.js";
import { channelStep, type ChannelInput } from "../src/vmbus/channel.js";

const inputs = [
  "open",
  "close",
  "open-reserved",
  "close-reserved",
  "release",
  "opened",
  "open-failed",
  "closed",
  "revoked",
  "offer",
  "revoke",
  "reoffer",
  "disconnect",
] as const satisfies readonly ChannelInput[];

/** States in short. */
const short: Readonly<Record<ChannelState, string>> = {
  "client-released": "rel",
  closed: "closed",
  opening: "opening",
  open: "open",
  closing: "closing",
  "closing-reopen": "reopen",
  rescinding: "resc",
  revoked: "revoked",
  reoffered: "reoff",
  "closing-client-release": "c-rel",
};

// The state that each input leads to: "." is ignored, "-" is an error.
const expected = `
            open    close   open-r  close-r release opened open-f closed  revoked offer  revoke  reoffer disconnect
rel         -       -       -       -       -       -      -      -       -       closed rel     -       rel
closed      opening -       opening -       rel     -      -      -       -       -      resc    -       rel
opening     -       -       -       -       -       open   closed -       -       -      resc    -       c-rel
open        -       closing -       closing -       -      -      -       -       -      resc    -       c-rel
closing     reopen  -       -       -       c-rel   -      -      closed  -       -      resc    -       c-rel
reopen      -       -       -       -       -       -      -      closed  -       -      resc    -       c-rel
resc        .       .       .       .       c-rel   .      .      .       revoked -      .       -       c-rel
revoked     .       .       .       .       rel     -      -      -       -       -      .       reoff   rel
reoff       .       .       .       .       closed  -      -      -       -       -      revoked -       rel
c-rel       -       -       -       -       -       .      .      rel     rel     -      .       -       .
`
  .trim()
  .split("\n")
  .slice(1)
  .map((line) => line.split(/\s+/));

describe("life of a channel", () => {
  const cases = expected.flatMap(([name, ...cells]) =>
    cells.map((cell, index) => [name!, inputs[index]!, cell] as const),
  );

  test("the table below has every state and every input", () => {
    expect(expected.map(([name]) => name)).toEqual(Object.values(short));
    expect(cases).toHaveLength(Object.keys(channelTable).length * inputs.length);
  });

  test.each(cases)("%s: %s", (name, input, cell) => {
    const state = (Object.keys(short) as ChannelState[]).find((key) => short[key] === name)!;
    const step = channelStep(state, input);
    expect(step === "ignore" ? "." : step === "error" ? "-" : short[step.to]).toBe(cell);
  });

  test("whatever leaves the guest's hands gives back its relid, and nothing else does", () => {
    const held = (state: ChannelState): boolean =>
      state !== "client-released" && state !== "closing-client-release";
    for (const [from, row] of Object.entries(channelTable))
      for (const step of Object.values(row)) {
        if (step === "ignore") continue;
        const gives = step.actions.includes("free-relid");
        expect(gives).toBe(held(from as ChannelState) && !held(step.to));
      }
  });

  test("a channel that a worker holds is left only through the worker's answer", () => {
    // In these states the worker has the rings, or may have.
    const withWorker = new Set(["opening", "open", "closing", "closing-reopen", "rescinding"]);
    const without = new Set(["client-released", "closed", "revoked", "reoffered"]);
    const answers = new Set(["open-failed", "closed", "revoked"]);
    for (const [from, row] of Object.entries(channelTable)) {
      if (!withWorker.has(from) && from !== "closing-client-release") continue;
      for (const [input, step] of Object.entries(row))
        if (step !== "ignore" && without.has(step.to)) expect([...answers]).toContain(input);
    }
  });
});
