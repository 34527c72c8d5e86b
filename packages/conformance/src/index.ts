export {
  simulateChannel,
  type ChannelSimulationOptions,
  type ChannelSimulationResult,
} from "./channel-simulation.js";
export {
  InterleavedEventFlags,
  InterleavedMessageSlot,
  InterleavedRingControl,
} from "./interleaving.js";
export {
  LateClearedEventFlags,
  MutantRingControl,
  ringMutants,
  type RingMutant,
} from "./mutants.js";
export { Prng } from "./prng.js";
export { Simulation, SimulationError, type Actor, type SimulationOptions } from "./simulation.js";
export { ChannelPeerHandler, type ChannelPeer } from "./channel-peers.js";
export { channelSuite, type ChannelSetup, type ConnectedEnd } from "./channel-suite.js";
export type { Case } from "./suite.js";
