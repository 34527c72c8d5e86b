export { GuestMemory, type Clock, type Timer, type Timers } from "@hyperv-is/vmbus-core";
export type { Guid } from "@hyperv-is/vmbus-core/protocol";
export type { Bells } from "./hypervisor/bells.js";
export {
  FaultCounters,
  guestFaultRules,
  type GuestFaultRule,
} from "./hypervisor/fault-counters.js";
export {
  DOORBELL_WORDS,
  HypervisorState,
  VP_LIMIT,
  type HypervisorOptions,
} from "./hypervisor/hypervisor-state.js";
export { HostSignals } from "./hypervisor/host-signals.js";
export {
  HostMessageSlot,
  MessageSlots,
  type HostMessageSlotFactory,
  type MessageSlotsOptions,
} from "./hypervisor/message-slots.js";
export { SyntheticInterrupts } from "./hypervisor/synic.js";
export {
  GeneralProtectionFault,
  VirtualProcessor,
  type TimerFrequencies,
  type VirtualProcessorOptions,
} from "./hypervisor/virtual-processor.js";
export {
  Bus,
  type BusContext,
  type BusReply,
  type BusState,
  type GuestMessage,
  type SubChannelName,
} from "./vmbus/bus.js";
export {
  channelTable,
  type ChannelAction,
  type ChannelInput,
  type ChannelState,
  type ChannelStep,
  type ChannelSummary,
} from "./vmbus/channel.js";
export { SUPPORTED_FEATURES, type BusOptions, type MonitorPages } from "./vmbus/connection.js";
export type { ServerEffect } from "./vmbus/effects.js";
export {
  INTEGRATION_COMPONENT_FLAGS,
  messagePipeUserData,
  type DeviceOffer,
} from "./vmbus/offers.js";
export { VmbusServer, type VmbusServerOptions, type VmbusServerStats } from "./vmbus/server.js";
export type {
  ChannelOpening,
  GuestInterrupt,
  HostWorkerLink,
  WorkerReply,
  WorkerRequest,
} from "./vmbus/worker-link.js";
export {
  Partition,
  type HostPart,
  type PartitionOptions,
  type PartitionStats,
} from "./partition.js";
export type { HostStats } from "./host-stats.js";
export { adapterOffers, controllerOffers, standardDevices } from "./device-set.js";
export type {
  HostChannelHandler,
  HostService,
  ServiceContext,
  ServiceMatch,
} from "./host-service.js";
export { HostWorker, type HostWorkerOptions, type WorkerChannelStats } from "./host-worker.js";
export {
  SavedPartitionError,
  type SavedBus,
  type SavedChannel,
  type SavedGpadl,
  type SavedOpening,
  type SavedPartition,
} from "./saved-partition.js";
export {
  Component,
  GuestError,
  HEARTBEAT_INTERVAL_MS,
  HEARTBEAT_MISSED_LIMIT,
  IntegrationServices,
  KeyValueExchange,
  TIME_SAMPLE_INTERVAL_MS,
  carryOutRequest,
  type ComponentEvents,
  type ComponentFailure,
  type ComponentResult,
  type ComponentSpeech,
  type ComponentState,
  type ComponentStats,
  type GuestErrorCode,
  type GuestItem,
  type HeartbeatStats,
  type HeartbeatStatus,
  type IntegrationConfig,
  type IntegrationRequest,
  type IntegrationStats,
  type KvpConfig,
  type KvpResult,
  type KvpStats,
  type ShutdownRequest,
  type ShutdownStats,
  type TimeSourceOptions,
  type TimeSourceStats,
} from "./integration/index.js";
export { absentService } from "./absent-service.js";
export { Violations, type SavedViolations, type Violation } from "./violations.js";
export { FaultPlanError, faultKinds, parseFaultPlan } from "./fault-rules.js";
export {
  FaultPlan,
  faultOperations,
  faultPoints,
  faultStats,
  type Fault,
  type FaultAt,
  type FaultContext,
  type FaultKind,
  type FaultOperation,
  type FaultPlanData,
  type FaultPoint,
  type FaultSelector,
  type FaultStats,
} from "./faults.js";
export type {
  ControllerConfig,
  ControllerStats,
  DiskConfig,
  DiskIo,
  DiskSource,
  ImageSource,
  RamSource,
  StorvspControllerOptions,
} from "./storvsp/controller-config.js";
export {
  CONTROLLERS_MAX,
  placeDisks,
  scsiControllerId,
  type DiskPlacement,
} from "./disk-placement.js";
export type { DataBuffer } from "./storvsp/data-buffer.js";
export { DelayedBackend } from "./storvsp/delayed-backend.js";
export type { AsyncDiskBackend, BackendEnded, DiskBackend } from "./storvsp/disk-backend.js";
export type { DiskCharacteristics } from "./storvsp/disk-characteristics.js";
export {
  LUNS_PER_CONTROLLER,
  LunTable,
  type AbsentLunAnswer,
  type ScsiAddress,
} from "./storvsp/lun-table.js";
export { stepInitialization, type Initialization } from "./storvsp/initialization.js";
export { RamDisk, type RamDiskOptions } from "./storvsp/ram-disk.js";
export { ScsiCommand } from "./storvsp/scsi-command.js";
export { ScsiDisk } from "./storvsp/scsi-disk.js";
export { ScsiResult } from "./storvsp/scsi-result.js";
export { StorvspController } from "./storvsp/storvsp-controller.js";
export {
  SUB_CHANNELS_MAX,
  subChannelPolicies,
  subChannelsFor,
  type SubChannelPolicy,
} from "./storvsp/sub-channel-policy.js";
export {
  stepNegotiation,
  type Negotiation,
  type NegotiationInput,
  type NegotiationOutcome,
  type NegotiationStep,
} from "./netvsp/negotiation.js";
export {
  kvpDamages,
  messageDamages,
  type KvpDamage,
  type MessageDamage,
} from "./integration/damage.js";
export {
  rndisDamages,
  transferDamages,
  type RndisDamage,
  type TransferDamage,
} from "./netvsp/damage.js";
export { NetworkAdapter } from "./netvsp/network-adapter.js";
export type {
  CaptureStats,
  NicConfig,
  NicCounters,
  NicOptions,
  NicStats,
} from "./netvsp/nic-config.js";
export { Frame, NO_VLAN_TAG, OneRun } from "./switch/frame.js";
export { privateMemory, type FrameMemory } from "./switch/frame-memory.js";
export { formatMac, parseMac } from "./switch/mac-address.js";
export type { FrameObserver, Port } from "./switch/port.js";
export {
  noOffloads,
  type BandwidthOptions,
  type PortCounters,
  type PortEnd,
  type PortOffloads,
  type PortOptions,
  type VlanMode,
} from "./switch/switch-port.js";
export { VirtualSwitch, type VirtualSwitchOptions } from "./switch/virtual-switch.js";
export {
  networkAdapterId,
  type CaptureConfig,
  type NetworkConfig,
  type SocketUplink,
  type TapUplink,
  type SwitchConfig,
  type Uplink,
} from "./network-config.js";
