import fc from "fast-check";
import { expect } from "vitest";
import { ProtocolVersion } from "@hyperv-is/vmbus-core/protocol";
import { World, act, type Act } from "./bus-world.js";

/**
 * Tries sequences of what guest, worker and host can do; each ends with an unload and a restart.
 *
 * @returns The states that channels were seen in. A failure names its seed, which `seed` replays.
 */
export function tryBus(runs: number, seed?: number): Set<string> {
  const seen = new Set<string>();
  fc.assert(
    fc.property(fc.array(act, { minLength: 20, maxLength: 200, size: "max" }), (acts) => {
      for (const state of play(acts)) seen.add(state);
    }),
    { numRuns: runs, ...(seed !== undefined && { seed }) },
  );
  return seen;
}

/** Does what a guest, a worker and a host do, and ends in order. @returns The states that channels were seen in. */
export function play(acts: readonly Act[]): ReadonlySet<string> {
  const world = new World();
  for (const step of acts) world.do(step);
  endInOrder(world);
  return world.seen;
}

function endInOrder(world: World): void {
  // A guest that unloads is told so as soon as the workers have answered.
  world.settle();
  if (world.bus.state === "connected") {
    const before = world.unloaded;
    const isAnswered = world.bus.connection!.version >= ProtocolVersion.v1_1;
    world.do(["unload", 0]);
    world.settle();
    expect(world.unloaded - before).toBe(isAnswered ? 1 : 0);
  }
  expect(world.bus.state).toBe("disconnected");
  for (const channel of world.bus.channels)
    expect(channel.subChannelIndex === 0 || channel.state === "open").toBe(true);
  // And a restart of the machine leaves nothing at all.
  const { resets } = world;
  world.do(["reset", 0]);
  world.settle();
  expect(world.resets).toBe(resets + 1);
  for (const channel of world.bus.channels)
    expect(channel).toMatchObject({ state: "client-released", relid: undefined });
}
