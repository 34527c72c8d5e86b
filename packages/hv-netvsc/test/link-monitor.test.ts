import { expect, test } from "vitest";
import {
  NETWORK_CHANGE_MS,
  steadyLink,
  stepLink,
  type LinkEffect,
  type LinkInput,
  type LinkState,
} from "../src/link-monitor.js";
import { RndisStatus } from "../src/protocol/index.js";

const up = { up: true, speed: 10 };
const down = { up: false, speed: 10 };
const NOW = 100;

/** The link was up in all of them, but where the network changes. */
const states: readonly LinkState[] = [
  steadyLink(up),
  { ...up, phase: "asking", deadline: Infinity },
  { ...up, phase: "asking-again", deadline: Infinity },
  { ...down, phase: "changing", deadline: NOW },
];

function brief(effects: readonly LinkEffect[]): string {
  return effects
    .map((effect) => {
      if (effect.kind === "ask") return "ask";
      return `${effect.link.up ? "up" : "down"} ${effect.link.speed}`;
    })
    .join(", ");
}

const same = ["steady", "asking", "asking-again", "changing"] as const;

/** For each input: what becomes of each state, and what is done. */
const table: readonly (readonly [
  string,
  LinkInput,
  number,
  readonly (readonly [LinkState["phase"], string])[],
])[] = [
  ...(
    [RndisStatus.mediaConnect, RndisStatus.mediaDisconnect, RndisStatus.linkSpeedChange] as const
  ).map(
    (status) =>
      [
        `indication ${status.toString(16)}`,
        { kind: "indicated", status } as const,
        NOW,
        [
          ["asking", "ask"],
          ["asking-again", ""],
          ["asking-again", ""],
          ["changing", ""],
        ],
      ] as const,
  ),
  [
    "a change of the network",
    { kind: "indicated", status: RndisStatus.networkChange },
    NOW,
    [
      ["changing", "down 10"],
      ["changing", "down 10"],
      ["changing", "down 10"],
      ["changing", ""],
    ],
  ],
  [
    "another indication",
    { kind: "indicated", status: RndisStatus.taskOffloadCurrentConfig },
    NOW,
    same.map((phase) => [phase, ""] as const),
  ],
  [
    "the same link as answer",
    { kind: "answered", link: up },
    NOW,
    [
      ["steady", ""],
      ["steady", ""],
      ["asking", "ask"],
      ["changing", ""],
    ],
  ],
  [
    "another link as answer",
    { kind: "answered", link: { up: false, speed: 20 } },
    NOW,
    [
      ["steady", ""],
      ["steady", "down 20"],
      ["asking", "ask"],
      ["changing", ""],
    ],
  ],
  [
    "no answer",
    { kind: "answered", link: undefined },
    NOW,
    [
      ["steady", ""],
      ["steady", ""],
      ["asking", "ask"],
      ["changing", ""],
    ],
  ],
  ["time, but not enough", { kind: "tick" }, NOW - 1, same.map((phase) => [phase, ""] as const)],
  [
    "the end of the time",
    { kind: "tick" },
    NOW,
    [
      ["steady", ""],
      ["asking", ""],
      ["asking-again", ""],
      ["asking", "ask"],
    ],
  ],
];

test.each(table)("%s", (_, input, now, outcomes) => {
  states.forEach((before, index) => {
    const { state, effects } = stepLink(before, input, now);
    expect([state.phase, brief(effects)], before.phase).toEqual(outcomes[index]);
    if (state.phase !== "changing") expect(state.deadline).toBe(Infinity);
  });
});

test("a change of the network lasts its time, and begins again with each", () => {
  const first = stepLink(
    steadyLink(up),
    { kind: "indicated", status: RndisStatus.networkChange },
    0,
  );
  expect(first.state).toEqual({ ...down, phase: "changing", deadline: NETWORK_CHANGE_MS });
  const again = stepLink(
    first.state,
    { kind: "indicated", status: RndisStatus.networkChange },
    3_000,
  );
  expect(again.state.deadline).toBe(3_000 + NETWORK_CHANGE_MS);
});
