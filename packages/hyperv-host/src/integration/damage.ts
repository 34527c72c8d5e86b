import { DeleteLayout, KvpBody, KvpOperation, ValueLayout } from "@hyperv-is/hv-kvp/protocol";
import { IcFlag, IcHeader, IcMessageType } from "@hyperv-is/hv-utils/protocol";

/** What may be wrong with the frame of a message to a guest's integration component, on purpose. */
export const messageDamages = ["short", "pipe-length", "size", "type", "response"] as const;
export type MessageDamage = (typeof messageDamages)[number];

/** What may be wrong with a request for key-value pairs. */
export const kvpDamages = [
  "operation",
  "pool",
  "index",
  "key-size",
  "key-end",
  "value-size",
  "address",
] as const;
export type KvpDamage = (typeof kvpDamages)[number];

const { fields } = IcHeader;

/** A message with a wrong frame. @param payload - of its packet; stays as it is. */
export function damageFrame(payload: Uint8Array, damage: MessageDamage): Uint8Array {
  const bytes = payload.slice();
  const view = new DataView(bytes.buffer);
  switch (damage) {
    case "short":
      return bytes.subarray(0, IcHeader.SIZE - 8);
    case "pipe-length":
      view.setUint32(fields.pipeBytes.offset, bytes.byteLength, true);
      return bytes;
    case "size":
      view.setUint16(fields.bodyBytes.offset, 0xffff, true);
      return bytes;
    case "type":
      view.setUint16(fields.type.offset, IcMessageType.guestInterface, true);
      return bytes;
    case "response":
      bytes[fields.flags.offset]! |= IcFlag.response;
      return bytes;
  }
}

/** A request for key-value pairs that must be refused, whatever it was. @param payload - of its packet; stays as it is. */
export function damageKvp(payload: Uint8Array, damage: KvpDamage): Uint8Array {
  const bytes = payload.slice();
  const body = bytes.subarray(IcHeader.SIZE);
  const content = body.subarray(KvpBody.aligned);
  const view = new DataView(content.buffer, content.byteOffset, content.byteLength);
  const begin = (operation: KvpOperation): void => {
    body.fill(0);
    body[KvpBody.operation] = operation;
  };
  switch (damage) {
    case "operation":
      begin(0x77);
      return bytes;
    case "pool":
      begin(KvpOperation.enumerate);
      body[KvpBody.pool] = 200;
      return bytes;
    case "index":
      begin(KvpOperation.enumerate);
      view.setUint32(0, 0xffff_ffff, true);
      return bytes;
    case "key-size":
      begin(KvpOperation.delete);
      view.setUint32(DeleteLayout.keyBytes, 0x1_0000, true);
      return bytes;
    case "key-end":
      begin(KvpOperation.delete);
      view.setUint32(DeleteLayout.keyBytes, 512, true);
      content.fill(0x41, DeleteLayout.key, DeleteLayout.SIZE);
      return bytes;
    case "value-size":
      begin(KvpOperation.set);
      view.setUint32(ValueLayout.type, 1, true);
      view.setUint32(ValueLayout.keyBytes, 4, true);
      view.setUint32(ValueLayout.valueBytes, 0xffff_fffe, true);
      content[ValueLayout.key] = 0x41;
      return bytes;
    case "address":
      body.fill(0x41);
      body[KvpBody.operation] = KvpOperation.setIpInfo;
      return bytes;
  }
}
