import {
  DeviceClass,
  PAGE_SIZE,
  ProtocolVersion,
  VMBUS_SINT,
  eventConnectionId,
} from "@hyperv-is/vmbus-core/protocol";
import type { DeviceOffer, PartitionOptions } from "../src/index.js";
import { EchoService } from "./echo-service.js";
import { GuestChannel } from "./guest-channel.js";
import { ScriptedGuest, type Rings } from "./scripted-guest.js";

export const disk: DeviceOffer = {
  classId: DeviceClass.scsi.classId,
  instanceId: "aaaaaaaa-0000-0000-0000-000000000001",
  worker: 0,
};
export const otherDisk: DeviceOffer = {
  ...disk,
  instanceId: "aaaaaaaa-0000-0000-0000-000000000002",
};
export const keyValue: DeviceOffer = {
  classId: DeviceClass.kvp.classId,
  instanceId: DeviceClass.kvp.instanceIds[0],
  worker: 0,
};
export const RELID = 1;
export const INTERRUPT_PAGE = 1000 * PAGE_SIZE;

export class Machine extends ScriptedGuest {
  readonly service = new EchoService();

  constructor(options: Partial<PartitionOptions> = {}, offers: readonly DeviceOffer[] = [disk]) {
    super(options);
    const { classId } = disk;
    for (const worker of this.partition.workers) worker.serve({ classId }, this.service);
    for (const offer of offers) this.partition.offer(offer);
  }

  /** Connects, takes the offers, and opens the first. */
  openFirst(version: ProtocolVersion = ProtocolVersion.v5_3, fields = {}): GuestChannel {
    this.connect(version, fields);
    this.requestOffers();
    return this.openChannel(RELID);
  }

  openChannel(
    relid: number,
    rings: Rings = this.createRings(relid, 3, 3),
    fields = {},
  ): GuestChannel {
    const result = this.open(rings, fields);
    if (result.length !== 1 || result[0]?.["status"] !== 0)
      throw new Error(`not opened: ${JSON.stringify(result)}`);
    this.rings = rings;
    return new GuestChannel(this, rings, () =>
      this.signal(eventConnectionId(relid, VMBUS_SINT, 0)),
    );
  }

  rings: Rings | undefined;

  states(): Record<string, string> {
    return Object.fromEntries(
      this.partition
        .stats()
        .channels.map(({ instanceId, subChannelIndex, state }) => [
          `${instanceId.slice(-2)}.${subChannelIndex}`,
          state,
        ]),
    );
  }
}

export const types = (messages: readonly { readonly type: number }[]): number[] =>
  messages.map(({ type }) => type);
