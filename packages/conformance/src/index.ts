export {
  simulateChannel,
  type ChannelSimulationOptions,
  type ChannelSimulationResult,
} from "./channel-simulation.js";
export { InterleavedEventFlags, InterleavedRingControl } from "./interleaving.js";
export {
  LateClearedEventFlags,
  MutantRingControl,
  ringMutants,
  type RingMutant,
} from "./mutants.js";
export { Prng } from "./prng.js";
export { Simulation, SimulationError, type Actor } from "./simulation.js";
export { ChannelPeerHandler, type ChannelPeer } from "./channel-peers.js";
export { channelSuite, type ChannelSetup, type ConnectedEnd } from "./channel-suite.js";
export type { Case } from "./suite.js";
