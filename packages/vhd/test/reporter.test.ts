import { expect, test } from "vitest";
import { type Finding } from "../src/finding.js";
import { collecting } from "../src/reporter.js";

test("a check lists a thousand findings, and says where it stopped", () => {
  const findings: Finding[] = [];
  const reporter = collecting(findings);
  for (let entry = 0; entry < 1003; entry++) {
    if (entry % 2 === 0) reporter.error("ERR_IMAGE_CORRUPT", `entry ${entry}`, entry, "it is bad");
    else reporter.warning(`entry ${entry}`, entry, "it is odd");
  }
  expect(findings).toHaveLength(1001);
  expect(findings[999]).toEqual({
    severity: "warning",
    structure: "entry 999",
    offset: 999,
    text: "it is odd",
  });
  expect(findings[1000]).toEqual({
    severity: "error",
    structure: "entry 1000",
    offset: 1000,
    text: "it is bad; and more, which are not listed",
  });
});
