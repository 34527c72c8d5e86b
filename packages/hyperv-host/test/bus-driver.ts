import {
  CloseChannel,
  CloseReservedChannel,
  DeviceClass,
  FIRST_GPADL_ID,
  GpadlTeardown,
  InitiateContact,
  MessageHeader,
  MessageType,
  ModifyChannel,
  NIL_GUID,
  OpenChannel,
  OpenReservedChannel,
  PAGE_SIZE,
  ProtocolVersion,
  RelidReleased,
  RequestOffers,
  VMBUS_SINT,
  emitGpadl,
  lookupMessage,
} from "@hyperv-is/vmbus-core/protocol";
import { Bus, type DeviceOffer, type ServerEffect } from "../src/index.js";
import type { BusReply } from "../src/index.js";
import { memoryAtOffset } from "./scripted-guest.js";

export const disk: DeviceOffer = {
  classId: DeviceClass.scsi.classId,
  instanceId: "11111111-2222-3333-4444-555555555555",
  worker: 1,
};
export const RELID = 1;
export const RING = FIRST_GPADL_ID;
export const BUFFER = FIRST_GPADL_ID + 1;
export const NEW = FIRST_GPADL_ID + 2;

/** Drives a bus by hand; what it wants done is put into short words. */
export class Driver {
  readonly bus = new Bus({ memory: memoryAtOffset(256), vpCount: 2 });
  version: ProtocolVersion = ProtocolVersion.v5_3;
  features = 0;

  /** What happened since the last call. */
  take(): string[] {
    return this.bus.take().flatMap((effect) => describeEffect(effect));
  }

  message(payload: Uint8Array, connectionId = 1): string[] {
    this.bus.message({ connectionId, payload });
    return this.take();
  }

  reply(reply: BusReply): string[] {
    this.bus.reply(reply);
    return this.take();
  }

  /** Answers each request of the bus at once, as a worker would. */
  answer(): string[] {
    const all: string[] = [];
    for (let effects = this.bus.take(); effects.length > 0; effects = this.bus.take())
      for (const effect of effects) {
        all.push(...describeEffect(effect));
        if (effect.kind !== "request") continue;
        const { request } = effect;
        if (request.kind === "open")
          this.bus.reply({ kind: "opened", key: request.opening.key, status: 0 });
        else if (request.kind === "close") this.bus.reply({ kind: "closed", key: request.key });
        else if (request.kind === "revoke") this.bus.reply({ kind: "revoked", key: request.key });
        else if (request.kind === "guest-released") continue;
        else if (request.kind === "modify")
          this.bus.reply({ kind: "modified", key: request.key, status: 0 });
        else if (request.kind === "gpadl-create")
          this.bus.reply({ ...request, kind: "gpadl-created", status: 0 });
        else this.bus.reply({ ...request, kind: "gpadl-torndown" });
      }
    return all;
  }

  connect(version: ProtocolVersion = ProtocolVersion.v5_3, features = 0): void {
    this.version = version;
    this.features = features;
    this.bus.offer(disk);
    this.message(contact(version, features), 4);
    this.message(RequestOffers.emit({}));
  }

  /** An accepted GPADL of these pages. */
  gpadl(id: number, pages = 4): void {
    for (const bytes of gpadlMessages(id, pages))
      this.bus.message({ connectionId: 1, payload: bytes });
    this.answer();
  }

  open(fields: Partial<OpenChannel> = {}): Uint8Array {
    return OpenChannel.emit({ ...openFields, ...fields }, this.features);
  }
}

export const openFields: OpenChannel = {
  relid: RELID,
  openId: RELID,
  ringGpadlId: RING,
  targetVp: 1,
  downstreamPageOffset: 2,
  userData: new Uint8Array(0),
  redirectInterrupt: false,
};

export function gpadlMessages(id: number, pages = 4, relid = RELID): Uint8Array[] {
  const pfns = Array.from({ length: pages }, (_, index) => 16 + index);
  return emitGpadl(relid, id, [{ byteCount: pages * PAGE_SIZE, byteOffset: 0, pfns }]);
}

export function contact(version: ProtocolVersion, features = 0, targetVp = 0): Uint8Array {
  return InitiateContact.emit({
    version,
    targetVp,
    interruptPageGpa: version < ProtocolVersion.v2_4 ? 0x5000 : 0,
    sint: VMBUS_SINT,
    vtl: 0,
    features,
    parentToChildMonitorGpa: 0,
    childToParentMonitorGpa: 0,
    clientId: NIL_GUID,
  });
}

function describeEffect(effect: ServerEffect): string[] {
  switch (effect.kind) {
    case "message": {
      const { type } = MessageHeader.parse(effect.bytes)!;
      const view = new DataView(effect.bytes.buffer);
      const failed =
        (type === MessageType.openChannelResult || type === MessageType.gpadlCreated) &&
        view.getUint32(16, true) !== 0;
      return [`${lookupMessage(type)!.name}${failed ? " failed" : ""}`];
    }
    case "request":
      return [`ask ${effect.request.kind}`];
    case "violation":
      return [`! ${effect.rule}`];
    case "reset-complete":
      return [effect.kind];
    default:
      return [];
  }
}

/** Brings a bus into a state of the disk's channel, with RING and BUFFER accepted as far as they can be. */
export const arrange: Readonly<Record<string, (driver: Driver) => void>> = {
  closed: (driver) => {
    driver.connect();
    driver.gpadl(RING);
    driver.gpadl(BUFFER);
  },
  opening: (driver) => {
    arrange["closed"]!(driver);
    driver.message(driver.open());
  },
  open: (driver) => {
    arrange["closed"]!(driver);
    driver.bus.message({ connectionId: 1, payload: driver.open() });
    driver.answer();
  },
  closing: (driver) => {
    arrange["open"]!(driver);
    driver.message(CloseChannel.emit({ relid: RELID }));
  },
  "closing-reopen": (driver) => {
    arrange["closing"]!(driver);
    driver.message(driver.open());
  },
  rescinding: (driver) => {
    arrange["open"]!(driver);
    driver.bus.rescind(disk.instanceId);
    driver.take();
  },
  revoked: (driver) => {
    arrange["open"]!(driver);
    driver.bus.rescind(disk.instanceId);
    driver.answer();
  },
  reoffered: (driver) => {
    arrange["revoked"]!(driver);
    driver.bus.offer(disk);
    driver.take();
  },
  reserved: (driver) => {
    arrange["closed"]!(driver);
    driver.bus.message({ connectionId: 1, payload: openReserved });
    driver.answer();
  },
};

export const openReserved = OpenReservedChannel.emit({
  relid: RELID,
  targetVp: 1,
  sint: 2,
  ringGpadlId: RING,
  downstreamPageOffset: 2,
});

export const messages: Readonly<Record<string, Uint8Array>> = {
  open: OpenChannel.emit(openFields, 0),
  close: CloseChannel.emit({ relid: RELID }),
  "open-reserved": openReserved,
  "close-reserved": CloseReservedChannel.emit({ relid: RELID, targetVp: 1, sint: 2 }),
  release: RelidReleased.emit({ relid: RELID }),
  modify: ModifyChannel.emit({ relid: RELID, targetVp: 1 }),
  "new gpadl": gpadlMessages(NEW)[0]!,
  "same gpadl": gpadlMessages(BUFFER)[0]!,
  "teardown buffer": GpadlTeardown.emit({ relid: RELID, gpadlId: BUFFER }),
  "teardown ring": GpadlTeardown.emit({ relid: RELID, gpadlId: RING }),
  "teardown unknown": GpadlTeardown.emit({ relid: RELID, gpadlId: NEW }),
};
