/** What Node has for embedders, beside its documentation. */
const { _tickCallback: runTicks } = process as unknown as { readonly _tickCallback?: () => void };

/**
 * Lets promises and ticks go on, as far as they do by themselves, and returns then. To be called in an immediate: within a
 * promise's reaction or a tick it does nothing. It leaves no garbage, as waiting for them does. Undefined if this Node
 * does not have it.
 */
export const settle: (() => void) | undefined = runTicks;
