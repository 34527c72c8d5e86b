// What a thread of a guest (or of a host of somebody else) needs of the hypervisor: it has no use for the rest of the host.
export { HypervisorState } from "../hypervisor/hypervisor-state.js";
export { VirtualProcessor } from "../hypervisor/virtual-processor.js";
export { DoorbellBells, HostCause } from "./doorbell-bells.js";
