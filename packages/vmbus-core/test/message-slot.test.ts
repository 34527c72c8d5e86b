import { describe, expect, test } from "vitest";
import { MessageSlotControl, type GuestMemory } from "@hyperv-is/vmbus-core";
import { MESSAGE_PENDING, MessageSlot, SynicMessageType } from "@hyperv-is/vmbus-core/protocol";
import { runCpu, startCpu, type FakeHypervisor } from "./fake-hypervisor.js";

/** A message of which the first byte is its number. */
const message = (number: number): Uint8Array => Uint8Array.of(number, 0, 0, 0, 0, 0, 0, 0);

/** A slot between any two accesses of which the host may act. */
class ScheduledSlot extends MessageSlotControl {
  readonly accesses: string[] = [];
  between: () => void = () => undefined;

  override loadType(): SynicMessageType {
    return this.#access("type", () => super.loadType());
  }
  override copyOut(): Uint8Array {
    return this.#access("copy", () => super.copyOut());
  }
  override clear(type: SynicMessageType): boolean {
    return this.#access("clear", () => super.clear(type));
  }
  override loadFlags(): number {
    return this.#access("flags", () => super.loadFlags());
  }
  #access<T>(name: string, access: () => T): T {
    this.between();
    this.accesses.push(name);
    return access();
  }
}

/** The mistake that the order is about: the flag is read first, the slot emptied afterwards. */
class SwappedSlot extends ScheduledSlot {
  #taken: SynicMessageType = SynicMessageType.none;

  override clear(type: SynicMessageType): boolean {
    this.#taken = type;
    return true;
  }
  override loadFlags(): number {
    const flags = super.loadFlags();
    super.clear(this.#taken);
    return flags;
  }
}

interface Run {
  readonly received: number[];
  readonly accesses: readonly string[];
  readonly hypervisor: FakeHypervisor;
}

/**
 * Sends two messages, the second when the guest is about to make its `at`th access to the slot, and lets
 * the guest run until it sleeps.
 */
function race(at: number, makeSlot: (memory: GuestMemory, address: number) => ScheduledSlot): Run {
  let slot: ScheduledSlot | undefined;
  const machine = startCpu({
    makeMessageSlot: (memory, address) => (slot = makeSlot(memory, address)),
  });
  const { hypervisor, cpu } = machine;
  const received: number[] = [];
  cpu.setMessageHandler((bytes) => received.push(bytes[0]!));
  hypervisor.send(message(1));
  slot!.between = () => {
    if (slot!.accesses.length === at) hypervisor.send(message(2));
  };
  runCpu(machine);
  return { received, accesses: slot!.accesses, hypervisor };
}

describe("taking a message out of its slot", () => {
  test("copy, empty, look at the flag, in this order", () => {
    const { accesses } = race(-1, (...where) => new ScheduledSlot(...where));
    expect(accesses.slice(0, 4)).toEqual(["type", "copy", "clear", "flags"]);
  });

  test("no message is lost, whenever the next one comes", () => {
    for (let at = 0; at < 5; at++) {
      const { received, hypervisor } = race(at, (...where) => new ScheduledSlot(...where));
      expect({ at, received }).toEqual({ at, received: [1, 2] });
      expect(hypervisor.backlog).toBe(0);
    }
  });

  test("with the flag read before the slot is emptied the stream of messages stops", () => {
    const stopped = [0, 1, 2, 3, 4].filter((at) => {
      const { received } = race(at, (...where) => new SwappedSlot(...where));
      return received.length < 2;
    });
    expect(stopped).not.toEqual([]);
  });

  test("the host is told that the slot is free only when it asked", () => {
    const { hypervisor } = race(2, (...where) => new ScheduledSlot(...where));
    expect(hypervisor.endsOfMessage).toBe(1);
    const alone = race(-1, (...where) => new ScheduledSlot(...where));
    expect(alone.hypervisor.endsOfMessage).toBe(0);
  });

  test("a message that somebody else took is neither handled nor wiped out", () => {
    const machine = startCpu({
      makeMessageSlot: (memory, address) => {
        const slot = new ScheduledSlot(memory, address);
        slot.between = () => {
          // Another CPU takes the message, and the host delivers one of another type.
          if (slot.accesses.at(-1) === "copy") memory.words[address >>> 2] = 7;
        };
        return slot;
      },
    });
    const received: number[] = [];
    machine.cpu.setMessageHandler((bytes) => received.push(bytes[0]!));
    machine.hypervisor.writeSlot({ payload: message(1), flags: MESSAGE_PENDING });
    machine.cpu.interrupt();
    expect(received).toEqual([]);
    expect(machine.cpu.counters).toMatchObject({ messages: 1, messagesDropped: 1 });
    expect(machine.hypervisor.endsOfMessage).toBe(1);
    expect(machine.memory.words[machine.hypervisor.slot! >>> 2]).toBe(0);
  });

  test("the copy is private: what the host writes afterwards does not show", () => {
    const machine = startCpu();
    const { hypervisor, memory, cpu } = machine;
    let kept: Uint8Array | undefined;
    cpu.setMessageHandler((bytes) => (kept = bytes));
    hypervisor.send(message(9));
    runCpu(machine);
    memory.bytes.fill(
      0xee,
      hypervisor.slot! + MessageSlot.fields.payload.offset,
      hypervisor.slot! + MessageSlot.SIZE,
    );
    expect([...kept!]).toEqual([9, 0, 0, 0, 0, 0, 0, 0]);
  });
});
