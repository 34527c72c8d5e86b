/**
 * One case of a compliance suite: passes by returning, fails by throwing. A suite is a plain list of
 * these, so that it runs under any test runner, ours (`./vitest`) or yours.
 */
export interface Case<Setup> {
  readonly name: string;
  run(setup: Setup): Promise<void>;
}

/** Fails the case that runs. */
export function fail(message: string): never {
  throw new Error(message);
}

/** Fails unless both print the same. */
export function same(actual: unknown, expected: unknown, what: string): void {
  const [left, right] = [JSON.stringify(actual), JSON.stringify(expected)];
  if (left !== right) fail(`${what}: expected ${right}, got ${left}`);
}
