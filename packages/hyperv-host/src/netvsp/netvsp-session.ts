import {
  NVSP_MESSAGE_BYTES,
  NdisConfigCapability,
  NdisConfigMtu,
} from "@hyperv-is/hv-netvsc/protocol";
import { noOffloads, type PortOffloads } from "../switch/switch-port.js";
import type { GuestBuffer } from "./guest-buffer.js";
import type { Negotiation } from "./negotiation.js";
import { OffloadSettings } from "./offload-settings.js";
import { ReceiveScaling } from "./receive-scaling.js";
import { ReceiveSlots } from "./receive-slots.js";

/** How far the RNDIS conversation is. */
export type RndisState = "initializing" | "operational" | "halted";

/** What an adapter knows of a guest's driver, from the opening of the primary channel to its end. */
export class NetvspSession {
  negotiation: Negotiation = { name: "init" };
  rndis: RndisState = "initializing";
  receiveBuffer: GuestBuffer | undefined;
  sendBuffer: GuestBuffer | undefined;
  /** Of the receive buffer. */
  slots = new ReceiveSlots(0, NdisConfigMtu.default);
  offloads: OffloadSettings;
  readonly scaling = new ReceiveScaling();
  /** `PacketFilter` bits. */
  packetFilter = 0;
  multicastList: Uint8Array = new Uint8Array(0);
  /** Sub-channels that the guest was granted. */
  subChannels = 0;
  /** The guest was told which channels to send on. */
  sendTableSent = false;
  /** What the guest takes of the switch. */
  portOffloads: PortOffloads = noOffloads;
  readonly #coalesces: boolean;
  readonly #takesPartial: boolean;

  constructor(coalesces: boolean, takesPartial: boolean) {
    this.#coalesces = coalesces;
    this.#takesPartial = takesPartial;
    this.offloads = new OffloadSettings(false);
  }

  /** The guest sends RNDIS messages from now on: what it negotiated holds. */
  begin(): void {
    this.offloads = new OffloadSettings(this.#canCoalesce);
    this.updateOffloads();
  }

  /** The guest has changed its offloads. */
  updateOffloads(): void {
    const { receive, coalesce4, coalesce6 } = this.offloads;
    const isEvery = receive.tcp4 && receive.udp4 && receive.tcp6 && receive.udp6;
    const partialChecksum = this.#takesPartial && isEvery;
    this.portOffloads = {
      partialChecksum,
      segmentation4: coalesce4 && partialChecksum,
      segmentation6: coalesce6 && partialChecksum,
      vlanTag: true,
    };
  }

  /** Largest frame, Ethernet header included. */
  get mtu(): number {
    return this.#configured?.mtu ?? NdisConfigMtu.default;
  }

  /** Bytes of a message in the ring. */
  get packetBytes(): number {
    return this.#configured?.version.packetBytes ?? (NVSP_MESSAGE_BYTES.legacy + 7) & ~7;
  }

  /** True if frames may go to the guest. */
  get isReceiving(): boolean {
    return this.rndis === "operational" && this.receiveBuffer !== undefined;
  }

  get #configured() {
    return this.negotiation.name === "init" ? undefined : this.negotiation;
  }

  get #canCoalesce(): boolean {
    const configured = this.#configured;
    const capabilities = configured?.capabilities ?? 0;
    return (
      this.#coalesces &&
      configured?.version.receiveCoalescing === true &&
      (capabilities & NdisConfigCapability.rscOverVmbus) !== 0
    );
  }
}
