import { describe, expect, test } from "vitest";
import {
  CONTROLLERS_MAX,
  LUNS_PER_CONTROLLER,
  placeDisks,
  scsiControllerId,
} from "../src/index.js";

const disk = (path: string, controller?: number) => ({
  source: { kind: "image" as const, path },
  ...(controller !== undefined && { controller }),
});
const layout = (...disks: Parameters<typeof placeDisks>[0]): string[][] =>
  placeDisks(disks).map(({ disks: placed }) =>
    placed.map(({ path, target, lun, source }) =>
      [path, target, lun, source.kind === "image" ? source.path : ""].join(" "),
    ),
  );

describe("disks on controllers", () => {
  test("a machine without disks has its first controller", () => {
    expect(placeDisks([])).toEqual([
      { instanceId: "5c51c000-0000-4000-8000-000000000000", disks: [] },
    ]);
  });

  test("disks follow one another, or go where they are told", () => {
    expect(layout(disk("a"), disk("b"))).toEqual([["0 0 0 a", "0 0 1 b"]]);
    expect(layout(disk("a"), disk("b", 2), disk("c"), disk("d", 2))).toEqual([
      ["0 0 0 a", "0 0 1 c"],
      [],
      ["0 0 0 b", "0 0 1 d"],
    ]);
  });

  test("a full controller is followed by the next, and the last by an error", () => {
    const many = (count: number) => Array.from({ length: count }, (_, at) => disk(`${at}`));
    const most = CONTROLLERS_MAX * LUNS_PER_CONTROLLER;
    const controllers = placeDisks(many(most));
    expect(controllers.map(({ disks }) => disks.length)).toEqual(
      new Array(CONTROLLERS_MAX).fill(LUNS_PER_CONTROLLER),
    );
    expect(new Set(controllers.map(({ instanceId }) => instanceId)).size).toBe(CONTROLLERS_MAX);
    expect(controllers[3]?.instanceId).toBe(scsiControllerId(3));
    const tooMany = expect.objectContaining({ code: "ERR_TOO_MANY_DISKS" }) as Error;
    expect(() => placeDisks(many(most + 1))).toThrow(tooMany);
    expect(() => placeDisks([disk("a", CONTROLLERS_MAX)])).toThrow(tooMany);
    const onOne = Array.from({ length: LUNS_PER_CONTROLLER + 1 }, () => disk("x", 1));
    expect(() => placeDisks(onOne)).toThrow(tooMany);
  });
});
