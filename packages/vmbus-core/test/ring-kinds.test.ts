import { test } from "vitest";
import { compareRings } from "./ring-campaign.js";

test("rings in WebAssembly do what rings in TypeScript do, whatever the peer does", () => {
  compareRings(500);
});
