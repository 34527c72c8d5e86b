// The closing line of CI. A skipped test is a failure here: CI has every peer.
import { readFileSync } from "node:fs";

const [packagesFile = "", ...vitestFiles] = process.argv.slice(2);
/** @type {{ name: string, ok: boolean }[]} */
const packages = JSON.parse(readFileSync(packagesFile, "utf8"));

let passed = packages.filter(({ ok }) => ok).length;
let failed = packages.length - passed;
for (const vitestFile of vitestFiles) {
  const vitest = JSON.parse(readFileSync(vitestFile, "utf8"));
  const skipped = vitest.numPendingTests + vitest.numTodoTests;
  if (skipped > 0) {
    console.log(`${skipped} tests were skipped, which counts as failed:`);
    for (const file of vitest.testResults)
      for (const test of file.assertionResults)
        if (test.status !== "passed" && test.status !== "failed") console.log(`  ${test.fullName}`);
  }
  // A file that fails to load has no test of its own.
  const brokenFiles = vitest.testResults.filter(
    (/** @type {{ status: string, assertionResults: unknown[] }} */ file) =>
      file.status === "failed" && file.assertionResults.length === 0,
  ).length;
  passed += vitest.numPassedTests;
  failed += vitest.numFailedTests + brokenFiles + skipped;
}
console.log(`${passed} passed, ${failed} failed`);
process.exit(failed === 0 && passed > 0 ? 0 : 1);
