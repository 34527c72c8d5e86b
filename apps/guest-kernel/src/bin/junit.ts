import type { Violation } from "@hyperv-is/hyperv-host";
import type { ExecutedList } from "../console/console-client.js";

const escapes: Readonly<Record<string, string>> = {
  "&": "&amp;",
  "<": "&lt;",
  ">": "&gt;",
  '"': "&quot;",
};

/** Text as XML 1.0 may carry it: of the control characters only tab, line feed and carriage return. */
function xml(text: string): string {
  return Array.from(text)
    .filter((character) => character >= " " || "\t\n\r".includes(character))
    .map((character) => escapes[character] ?? character)
    .join("");
}

/** A JUnit report: a case for each command list, and one for the rules of the protocol if they count. */
export function junitReport(
  lists: readonly ExecutedList[],
  violations: readonly Violation[],
  failOnViolations: boolean,
): string {
  const cases = lists.map(({ text, status, seconds, stdout, stderr }) => ({
    name: text,
    seconds,
    failure: status === 0 ? undefined : `exit status ${status}\n${stderr}`,
    output: stdout,
  }));
  if (failOnViolations)
    cases.push({
      name: "the guest keeps to the protocol",
      seconds: 0,
      failure:
        violations.length === 0
          ? undefined
          : violations.map(({ rule, detail }) => `${rule}: ${detail}`).join("\n"),
      output: "",
    });
  const failures = cases.filter(({ failure }) => failure !== undefined).length;
  const body = cases.map(
    ({ name, seconds, failure, output }) =>
      `  <testcase classname="guest-kernel" name="${xml(name)}" time="${seconds.toFixed(3)}">\n` +
      (failure === undefined
        ? ""
        : `    <failure message="${xml(failure.split("\n")[0]!)}">${xml(failure)}</failure>\n`) +
      `    <system-out>${xml(output)}</system-out>\n  </testcase>\n`,
  );
  return (
    `<?xml version="1.0" encoding="UTF-8"?>\n` +
    `<testsuite name="guest-kernel" tests="${cases.length}" failures="${failures}">\n` +
    `${body.join("")}</testsuite>\n`
  );
}
