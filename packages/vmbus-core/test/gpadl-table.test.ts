import { describe, expect, test } from "vitest";
import { GpadlTable } from "../src/bus/gpadl-table.js";

const held = (gpadlId: number) => ({ gpadlId, relid: 1, input: () => undefined });

describe("GPADL ids", () => {
  test("count up from 0xe1e10", () => {
    const table = new GpadlTable();
    expect([table.newId(), table.newId()]).toEqual([0xe1e10, 0xe1e11]);
  });

  test("go round, never to 0 and never to one in use", () => {
    const table = new GpadlTable(0xffff_fffe);
    table.add(held(0xffff_ffff));
    table.add(held(1));
    expect([table.newId(), table.newId()]).toEqual([0xffff_fffe, 2]);
  });

  test("are found until they are deleted", () => {
    const table = new GpadlTable();
    const gpadl = held(7);
    table.add(gpadl);
    expect(table.get(7)).toBe(gpadl);
    table.delete(gpadl);
    expect(table.get(7)).toBeUndefined();
  });
});
