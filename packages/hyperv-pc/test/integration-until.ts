import type { IntegrationStats } from "@hyperv-is/hyperv-host";
import type { PcMachine } from "../src/node/index.js";

/** Looks that a guest is given; each lasts as long as the guest takes for its pause. */
const LOOKS = 200;

/**
 * Lets a guest go on until what its host knows of its integration components is so.
 *
 * @param pause - has the guest do nothing for a moment.
 */
export async function integrationUntil(
  { host }: PcMachine,
  pause: () => Promise<unknown>,
  isSo: (stats: IntegrationStats) => boolean,
): Promise<IntegrationStats> {
  for (let look = 0; look < LOOKS; look++) {
    const { integration } = host.stats();
    if (integration !== undefined && isSo(integration)) return integration;
    await pause();
  }
  throw new Error(`never: ${String(isSo)} in ${JSON.stringify(host.stats().integration)}`);
}
