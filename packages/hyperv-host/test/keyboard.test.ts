import { describe, expect, test } from "vitest";
import { SendResult, type Channel } from "@hyperv-is/vmbus-core";
import {
  CloseChannel,
  DeviceClass,
  PacketType,
  VMBUS_SINT,
  eventConnectionId,
} from "@hyperv-is/vmbus-core/protocol";
import { standardDevices } from "../src/index.js";
import { GuestChannel } from "./guest-channel.js";
import { ScriptedGuest } from "./scripted-guest.js";

/** A message of two words: type, and version or lights. */
const message = (type: number, value: number): Uint8Array =>
  new Uint8Array(Uint32Array.of(type, value).buffer);

const REQUEST_1_0 = message(1, 0x0001_0000);
const LIGHTS = message(4, 5);
const ACCEPTED = message(2, 1);
const REFUSED = message(2, 0);

/** The guest's end of the keyboard's channel. */
class GuestKeyboard extends GuestChannel {
  readonly heard: Uint8Array[] = [];

  override packet({ incoming }: Channel): void {
    expect(incoming.type).toBe(PacketType.inBand);
    expect(incoming.completionRequested).toBe(false);
    this.heard.push(incoming.copyOut(incoming.headerBytes, incoming.payloadBytes));
  }

  override closed(): void {
    // Some tests provoke it.
  }
}

interface World {
  readonly guest: ScriptedGuest;
  readonly keyboard: GuestKeyboard;
}

function openKeyboard(): World {
  const guest = new ScriptedGuest();
  const { classId } = DeviceClass.keyboard;
  guest.partition.offer(standardDevices(0).find((offer) => offer.classId === classId)!);
  guest.connect();
  guest.requestOffers();
  return { guest, keyboard: openChannel(guest) };
}

function openChannel(guest: ScriptedGuest): GuestKeyboard {
  const rings = guest.createRings(1, 3, 3);
  expect(guest.open(rings)[0]).toMatchObject({ status: 0 });
  const signal = (): void => void guest.signal(eventConnectionId(1, VMBUS_SINT, 0));
  return new GuestKeyboard(guest, rings, signal);
}

/** Sends messages one after the other. */
function tell({ guest, keyboard }: World, messages: readonly Uint8Array[]): void {
  for (const bytes of messages) {
    keyboard.send(bytes);
    guest.partition.run();
    keyboard.poll();
  }
}

/** What a keyboard has said after some messages, and what was wrong with them. */
function say(messages: readonly Uint8Array[]): {
  readonly heard: readonly Uint8Array[];
  readonly brokenRules: readonly string[];
} {
  const world = openKeyboard();
  tell(world, messages);
  return { heard: world.keyboard.heard, brokenRules: world.guest.brokenRules };
}

describe("the synthetic keyboard", () => {
  test("accepts version 1.0, in band and without a completion, and takes the lights", () => {
    expect(say([REQUEST_1_0, LIGHTS, LIGHTS])).toEqual({ heard: [ACCEPTED], brokenRules: [] });
  });

  test("refuses other versions, and may be asked again", () => {
    expect(say([message(1, 0x0002_0000), message(1, 1), REQUEST_1_0, LIGHTS])).toEqual({
      heard: [REFUSED, REFUSED, ACCEPTED],
      brokenRules: [],
    });
  });

  test("asks for a version again on a channel that is opened again", () => {
    const world = openKeyboard();
    const { guest } = world;
    tell(world, [REQUEST_1_0, LIGHTS]);
    guest.send(CloseChannel.emit({ relid: 1 }));
    const again = { guest, keyboard: openChannel(guest) };
    tell(again, [REQUEST_1_0]);
    expect(again.keyboard.heard).toEqual([ACCEPTED]);
    guest.send(CloseChannel.emit({ relid: 1 }));
    expect(guest.brokenRules).toEqual([]);
    tell({ guest, keyboard: openChannel(guest) }, [LIGHTS]);
    expect(guest.brokenRules).toEqual(["keyboard-packet-order"]);
  });

  test.each([
    ["lights before a version", [LIGHTS], [], "keyboard-packet-order"],
    ["a second agreement", [REQUEST_1_0, REQUEST_1_0], [ACCEPTED], "keyboard-packet-order"],
    ["the host's own message", [REQUEST_1_0, message(3, 0)], [ACCEPTED], "keyboard-message-type"],
    ["an unknown message", [message(0x8000_0001, 0)], [], "keyboard-message-type"],
    ["a message without a body", [new Uint8Array(0)], [], "keyboard-packet-short"],
  ])("closes the channel after %s", (_, messages, heard, rule) => {
    expect(say([...messages, REQUEST_1_0])).toEqual({ heard, brokenRules: [rule] });
  });

  test("closes the channel after a packet that is not in band", () => {
    const { guest, keyboard } = openKeyboard();
    const { channel } = keyboard;
    expect(channel.begin(PacketType.completion, 0, 16, 24, 1, 0)).toBe(SendResult.Ready);
    channel.outgoing.putBytes(REQUEST_1_0, 0, 8);
    channel.outgoing.end();
    channel.flush();
    guest.partition.run();
    expect(guest.brokenRules).toEqual(["keyboard-packet-type"]);
  });

  test("keeps answers for which there is no room until there is", () => {
    const { guest, keyboard } = openKeyboard();
    const refused = message(1, 7);
    let sent = 0;
    // More than the ring to the guest holds; the rest fits into the other.
    for (let round = 0; round < 4; round++) {
      for (let number = 0; number < 100; number++, sent++) keyboard.send(refused);
      guest.partition.run();
    }
    expect(guest.partition.stats().workers[0]![0]!.outgoingFull).toBeGreaterThan(0);
    for (let round = 0; round < 20; round++) {
      keyboard.poll();
      guest.partition.run();
    }
    expect(keyboard.heard).toEqual(Array.from({ length: sent }, () => REFUSED));
    expect(guest.brokenRules).toEqual([]);
  });
});
