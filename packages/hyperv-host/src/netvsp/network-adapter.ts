import { DeviceClass, NtStatus } from "@hyperv-is/vmbus-core/protocol";
import type { Timers } from "@hyperv-is/vmbus-core";
import {
  PacketFilter,
  RndisStatus,
  findNvspVersion,
  nvspVersions,
} from "@hyperv-is/hv-netvsc/protocol";
import type { HostChannelHandler, HostService, ServiceContext } from "../host-service.js";
import type { Frame } from "../switch/frame.js";
import {
  MAC_BYTES,
  formatMac,
  isBroadcast,
  isGroupAddress,
  macHigh,
  macLow,
} from "../switch/mac-address.js";
import type { Port } from "../switch/port.js";
import type { PortEnd, PortOffloads } from "../switch/switch-port.js";
import type { VirtualSwitch } from "../switch/virtual-switch.js";
import type { ChannelOpening } from "../vmbus/worker-link.js";
import { AdapterObjects } from "./adapter-objects.js";
import { LinkIndications } from "./link-indications.js";
import { NetvspChannel } from "./netvsp-channel.js";
import { NetvspSession } from "./netvsp-session.js";
import { newNicCounters, type NicConfig, type NicCounters, type NicStats } from "./nic-config.js";
import type { OidSource } from "./oid-answers.js";

const DEFAULT_LINK_SPEED = 10_000_000_000;

/** What a guest is told of a network change: the network is another one. */
const NETWORK_CHANGED = Uint8Array.of(1, 0, 0, 0);

/** The network provider: one adapter of a guest with all its channels, at a port of a virtual switch. */
export class NetworkAdapter implements HostService, PortEnd {
  readonly port: Port;
  readonly counters: NicCounters = newNicCounters();
  readonly versions: readonly number[];
  readonly subChannelsMax: number;
  readonly #config: NicConfig;
  readonly #switch: VirtualSwitch;
  readonly #mac: Uint8Array<ArrayBuffer>;
  readonly #macHigh: number;
  readonly #macLow: number;
  readonly #linkSpeed: number;
  readonly #link: LinkIndications;
  /** By their indices; the primary one is the first. */
  readonly #channels: (NetvspChannel | undefined)[] = [];
  #session: NetvspSession;

  /** Connects the adapter to a switch. Throws a RangeError if the switch refuses, or a version is unknown. */
  constructor(config: NicConfig, owner: VirtualSwitch, timers: Timers) {
    this.#config = config;
    this.#switch = owner;
    this.versions = config.versions ?? nvspVersions.map(({ value }) => value);
    for (const version of this.versions)
      if (findNvspVersion(version) === undefined)
        throw new RangeError(`there is no NVSP version 0x${version.toString(16)}`);
    this.subChannelsMax = config.subChannelsMax ?? 0;
    this.#mac = Uint8Array.from(config.mac);
    this.#macHigh = macHigh(this.#mac, 0);
    this.#macLow = macLow(this.#mac, 0);
    this.#linkSpeed = config.linkSpeed ?? DEFAULT_LINK_SPEED;
    this.#session = this.#newSession();
    const { instanceId, mac, allowMacSpoofing, vlan, bandwidth } = config;
    this.port = owner.connect(
      this,
      {
        name: instanceId,
        kind: "guest",
        mac,
        ...(allowMacSpoofing !== undefined && { allowMacSpoofing }),
        ...(vlan && { vlan }),
        ...(bandwidth && { bandwidth }),
      },
      { classId: DeviceClass.network.classId, instanceId },
    );
    this.#link = new LinkIndications(timers, this.port.isLinkUp, (isUp) =>
      this.#channels[0]?.indicate(isUp ? RndisStatus.mediaConnect : RndisStatus.mediaDisconnect),
    );
  }

  open(opening: ChannelOpening, context: ServiceContext): HostChannelHandler | NtStatus {
    const { subChannelIndex: index } = opening;
    const isPrimary = index === 0;
    if (isPrimary) this.#session = this.#newSession();
    else if (this.#channels[0] === undefined || index > this.#session.subChannels)
      return NtStatus.unsuccessful;
    const channel = new NetvspChannel(this, this.#session, opening, context, () => {
      if (this.#channels[index] !== channel) return;
      this.#channels[index] = undefined;
      if (isPrimary) this.#guestGone();
    });
    this.#channels[index] = channel;
    return channel;
  }

  /** What the guest takes of the switch. */
  get offloads(): PortOffloads {
    return this.#session.portOffloads;
  }

  deliver(frame: Frame): boolean {
    const session = this.#session;
    const primary = this.#channels[0];
    if (!session.isReceiving || primary === undefined) {
      this.counters.receiveNotReady++;
      return false;
    }
    if (!this.#isWanted(frame)) {
      this.counters.receiveFiltered++;
      return false;
    }
    const channel = this.#channels[session.scaling.channelOf(frame)] ?? primary;
    return channel.deliver(frame);
  }

  flush(): void {
    for (const channel of this.#channels) channel?.flush();
  }

  linkChanged(isUp: boolean): void {
    this.#link.changed(isUp);
  }

  /** Tells the guest that it is in another network: it asks for a new address then. */
  indicateNetworkChange(): void {
    if (this.#session.rndis === "operational")
      this.#channels[0]?.indicate(RndisStatus.networkChange, NETWORK_CHANGED);
  }

  /** Plain data for the host's `stats`. */
  stats(): NicStats {
    const { negotiation, slots, mtu, packetFilter } = this.#session;
    return {
      instanceId: this.#config.instanceId,
      ...this.counters,
      mac: formatMac(this.#mac),
      version: negotiation.name === "init" ? null : negotiation.version.name,
      mtu: mtu - 14,
      isLinkUp: this.port.isLinkUp,
      packetFilter,
      channels: this.#channels.filter((channel) => channel !== undefined).length,
      receiveSlots: slots.count,
      receiveSlotsBusy: slots.busy,
      port: { ...this.port.counters },
    };
  }

  /** Takes the adapter off its switch. */
  close(): void {
    this.#link.stop();
    this.port.close();
  }

  /** For channels: what objects are answered from while a guest is there. */
  oidSource(session: NetvspSession): OidSource {
    return new AdapterObjects(
      {
        mac: this.#mac,
        linkSpeed: this.#linkSpeed,
        queues: this.subChannelsMax + 1,
        isLinkUp: () => this.port.isLinkUp,
        offloadsChanged: ({ offloads }) =>
          this.#channels[0]?.indicate(RndisStatus.taskOffloadCurrentConfig, offloads.current()),
      },
      session,
    );
  }

  /** For channels: the guest has initialized RNDIS. */
  guestBegan(): void {
    this.#link.start();
  }

  /** For channels: the guest has halted RNDIS. */
  guestHalted(): void {
    this.#session.rndis = "halted";
    this.#link.stop();
  }

  /** For channels: what was delivered but not sent is forgotten, as its memory is taken back. */
  dropReceived(): void {
    for (const channel of this.#channels) channel?.dropReceived();
  }

  /** For channels: one is open. When all that were granted are, the guest is told which to send on. */
  channelOpened(): void {
    const session = this.#session;
    if (session.subChannels === 0 || session.sendTableSent) return;
    for (let index = 0; index <= session.subChannels; index++)
      if (this.#channels[index] === undefined) return;
    session.sendTableSent = true;
    this.#channels[0]?.sendTable(session.subChannels + 1);
  }

  /** For channels: the frames that the guest has sent are on their way. */
  flushSwitch(): void {
    this.#switch.flush();
  }

  #newSession(): NetvspSession {
    const { receiveCoalescing = true, partialChecksums = true } = this.#config;
    return new NetvspSession(receiveCoalescing, partialChecksums);
  }

  #guestGone(): void {
    this.#session = this.#newSession();
    this.#link.stop();
  }

  /** What the guest's packet filter says of a frame. */
  #isWanted({ head: { bytes } }: Frame): boolean {
    const { packetFilter, multicastList } = this.#session;
    if ((packetFilter & PacketFilter.promiscuous) !== 0) return true;
    if (!isGroupAddress(bytes)) {
      const isOwn = macHigh(bytes, 0) === this.#macHigh && macLow(bytes, 0) === this.#macLow;
      return isOwn && (packetFilter & PacketFilter.directed) !== 0;
    }
    if (isBroadcast(bytes)) return (packetFilter & PacketFilter.broadcast) !== 0;
    if ((packetFilter & PacketFilter.allMulticast) !== 0) return true;
    if ((packetFilter & PacketFilter.multicast) === 0) return false;
    for (let at = 0; at < multicastList.length; at += MAC_BYTES)
      if (
        macHigh(multicastList, at) === macHigh(bytes, 0) &&
        macLow(multicastList, at) === macLow(bytes, 0)
      )
        return true;
    return false;
  }
}
