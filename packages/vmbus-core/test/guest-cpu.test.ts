import { describe, expect, test } from "vitest";
import {
  GuestCpu,
  GuestMemory,
  HypercallPage,
  PageAllocator,
  EventFlags,
  type Channel,
  type ChannelClosedReason,
  type ChannelDescription,
  type ChannelHandler,
  type HostSignal,
} from "@hyperv-is/vmbus-core";
import {
  ConnectionId,
  ControlPage,
  EventFlagsPage,
  HypercallStatus,
  HypervisorFeature,
  InterruptPage,
  MESSAGE_PENDING,
  MSR_ENABLE,
  MSR_PAGE_MASK,
  Msr,
  PAGE_SIZE,
  Sint,
  SynicMessageType,
  VMBUS_SINT,
} from "@hyperv-is/vmbus-core/protocol";
import { OutgoingRing, RingArea, SendResult } from "@hyperv-is/vmbus-core";
import { VirtualTimers } from "@hyperv-is/vmbus-core/testing";
import { putInBand } from "./ring-ends.js";
import { FakeHypervisor, VP_INDEX, runCpu, startCpu, type TestCpu } from "./fake-hypervisor.js";

const SINT2 = Msr.sint0 + VMBUS_SINT;
const RING_PAGES = 2;

const message = (number: number): Uint8Array => Uint8Array.of(number, 0, 0, 0, 0, 0, 0, 0);

/** Keeps what arrives on a channel, and what the channel says of its end. */
class Sink implements ChannelHandler {
  readonly ids: number[] = [];
  readonly reasons: ChannelClosedReason[] = [];
  packet(channel: Channel): void {
    this.ids.push(channel.incoming.idLow);
  }
  batchEnd(channel: Channel): void {
    channel.flush();
  }
  spaceArrived(): void {
    // Never waits.
  }
  closed(_channel: Channel, reason: ChannelClosedReason): void {
    this.reasons.push(reason);
  }
}

function describeChannel(
  { allocator }: TestCpu,
  relid: number,
  signal: HostSignal = { connectionId: 0x2000 + relid },
): ChannelDescription {
  return {
    relid,
    subChannelIndex: 0,
    targetVp: VP_INDEX,
    ringAddress: allocator.allocate(2 * RING_PAGES)!,
    outgoingPages: RING_PAGES,
    incomingPages: RING_PAGES,
    signal,
  };
}

/** The host's end of the ring that the guest reads. */
function hostRing({ memory }: TestCpu, { ringAddress }: ChannelDescription): OutgoingRing {
  return new OutgoingRing(RingArea.at(memory, ringAddress + RING_PAGES * PAGE_SIZE, RING_PAGES));
}

/** Sends one packet from the guest. */
function sendPacket(channel: Channel): void {
  if (channel.begin(6, 0, 16, 16, 1, 0) !== SendResult.Ready) throw new Error("does not fit");
  channel.outgoing.end();
  channel.flush();
}

describe("SynIC", () => {
  test("is set up in the order pages, source, whole", () => {
    const { hypervisor, cpu } = startCpu();
    expect(hypervisor.written.map(([msr]) => msr)).toEqual([
      Msr.simp,
      Msr.siefp,
      SINT2,
      Msr.scontrol,
    ]);
    const [simp, siefp, source, control] = hypervisor.written.map(([, value]) => value);
    expect((simp! & MSR_ENABLE) | (siefp! & MSR_ENABLE)).toBe(MSR_ENABLE);
    expect(simp! & MSR_PAGE_MASK).not.toBe(siefp! & MSR_PAGE_MASK);
    expect(source! & (Sint.masked | Sint.polling)).toBe(0n);
    expect(source! & Sint.vectorMask).toBeGreaterThanOrEqual(16n);
    expect(control! & MSR_ENABLE).toBe(MSR_ENABLE);
    expect(cpu.vpIndex).toBe(VP_INDEX);
  });

  test("is taken down in the order whole, source, pages, and gives its pages back", () => {
    const { hypervisor, allocator, cpu } = startCpu();
    hypervisor.written.length = 0;
    const before = allocator.freePages;
    cpu.stop();
    expect(hypervisor.written.map(([msr]) => msr)).toEqual([
      Msr.scontrol,
      SINT2,
      Msr.simp,
      Msr.siefp,
    ]);
    expect(hypervisor.readMsr(Msr.scontrol) & MSR_ENABLE).toBe(0n);
    expect(hypervisor.readMsr(SINT2) & Sint.masked).toBe(Sint.masked);
    expect(hypervisor.readMsr(Msr.simp) | hypervisor.readMsr(Msr.siefp)).toBe(0n);
    expect(allocator.freePages).toBe(before + 3);
  });

  test("keeps bits that are reserved", () => {
    const memory = new GuestMemory(new ArrayBuffer(8 * PAGE_SIZE));
    const hypervisor = new FakeHypervisor(memory);
    const reserved = {
      [Msr.simp]: 0x804n,
      [Msr.siefp]: 0x408n,
      [SINT2]: 1n << 40n,
      [Msr.scontrol]: 6n,
    };
    for (const [msr, value] of Object.entries(reserved))
      hypervisor.msrs.set(Number(msr), value | (Number(msr) === SINT2 ? Sint.reset : 0n));
    const cpu = new GuestCpu({
      memory,
      hypervisor,
      allocator: new PageAllocator(memory, 0, memory.sizeBytes),
      timers: new VirtualTimers(),
      vector: 0x40,
    });
    cpu.start();
    for (const [msr, value] of Object.entries(reserved))
      expect(hypervisor.readMsr(Number(msr)) & value).toBe(value);
    expect(hypervisor.readMsr(SINT2)).toBe((1n << 40n) | 0x40n);
    cpu.stop();
    for (const [msr, value] of Object.entries(reserved))
      expect(hypervisor.readMsr(Number(msr)) & value).toBe(value);
  });

  test("ends interrupts by itself unless the hypervisor advises against it", () => {
    const { hypervisor } = startCpu();
    expect(hypervisor.readMsr(SINT2) & Sint.autoEoi).toBe(0n);
    const memory = new GuestMemory(new ArrayBuffer(8 * PAGE_SIZE));
    const old = new FakeHypervisor(memory);
    old.advice = 0;
    const allocator = new PageAllocator(memory, 0, memory.sizeBytes);
    const timers = new VirtualTimers();
    new GuestCpu({ memory, allocator, timers, hypervisor: old }).start();
    expect(old.readMsr(SINT2) & Sint.autoEoi).toBe(Sint.autoEoi);
  });

  test("is refused without one, and without memory for it", () => {
    const memory = new GuestMemory(new ArrayBuffer(8 * PAGE_SIZE));
    const hypervisor = new FakeHypervisor(memory);
    const timers = new VirtualTimers();
    const small = new PageAllocator(memory, 0, 2 * PAGE_SIZE);
    const construct = (): GuestCpu =>
      new GuestCpu({ memory, hypervisor, timers, allocator: small });
    expect(construct).toThrow(expect.objectContaining({ code: "ERR_NO_MEMORY" }));
    hypervisor.features &= ~HypervisorFeature.synic;
    expect(construct).toThrow(expect.objectContaining({ code: "ERR_NO_SYNIC" }));
    expect(hypervisor.written).toEqual([]);
  });
});

describe("hypercall page", () => {
  test("is enabled after the guest has said who it is, and given back", () => {
    const { hypervisor, allocator } = startCpu();
    const free = allocator.freePages;
    hypervisor.written.length = 0;
    const page = new HypercallPage(hypervisor, allocator, 0x8200_0000_0000_1234n);
    expect(hypervisor.written[0]).toEqual([Msr.guestOsId, 0x8200_0000_0000_1234n]);
    expect(hypervisor.readMsr(Msr.hypercall) & MSR_ENABLE).toBe(MSR_ENABLE);
    expect(allocator.freePages).toBe(free - 1);
    page.disable();
    expect(hypervisor.readMsr(Msr.hypercall)).toBe(0n);
    expect(hypervisor.readMsr(Msr.guestOsId)).toBe(0n);
    expect(allocator.freePages).toBe(free);
  });

  test("is refused where the partition may not post messages", () => {
    const { hypervisor, allocator } = startCpu();
    hypervisor.privileges = 0;
    expect(() => new HypercallPage(hypervisor, allocator)).toThrow(
      expect.objectContaining({ code: "ERR_NO_HYPERVISOR" }),
    );
  });
});

describe("messages", () => {
  test("arrive in order, each taken out of the slot before the next comes", () => {
    const machine = startCpu();
    const numbers: number[] = [];
    machine.cpu.setMessageHandler((bytes) => numbers.push(bytes[0]!));
    machine.hypervisor.send(...[1, 2, 3, 4, 5].map(message));
    runCpu(machine);
    expect(numbers).toEqual([1, 2, 3, 4, 5]);
    expect(machine.hypervisor.endsOfMessage).toBe(4);
    expect(machine.cpu.counters).toMatchObject({ messages: 5, endsOfMessage: 4 });
  });

  test("that a handler brings about are not handled inside of it", () => {
    const machine = startCpu();
    const { hypervisor, cpu } = machine;
    const log: string[] = [];
    cpu.setMessageHandler((bytes) => {
      log.push(`begin ${bytes[0]}`);
      if (bytes[0] === 1) {
        hypervisor.send(message(2));
        cpu.interrupt();
      }
      log.push(`end ${bytes[0]}`);
    });
    hypervisor.send(message(1));
    runCpu(machine);
    expect(log).toEqual(["begin 1", "end 1", "begin 2", "end 2"]);
  });

  test("without end do not hold the CPU, and none is lost", () => {
    const machine = startCpu();
    const { hypervisor, cpu } = machine;
    let count = 0;
    cpu.setMessageHandler(() => {
      count++;
      if (count < 1000) hypervisor.send(message(0));
    });
    hypervisor.send(message(0));
    cpu.interrupt();
    expect(count).toBeLessThan(1000);
    hypervisor.interruptPending = false;
    while (cpu.run());
    expect(count).toBe(1000);
  });

  test.each([
    ["of another type", { messageType: SynicMessageType.timerExpired }],
    ["of an impossible size", { payloadSize: 241 }],
  ])("%s are taken and dropped", (_what, slot) => {
    const machine = startCpu();
    const numbers: number[] = [];
    machine.cpu.setMessageHandler((bytes) => numbers.push(bytes[0]!));
    machine.hypervisor.writeSlot({ payload: message(1), flags: MESSAGE_PENDING, ...slot });
    machine.hypervisor.send(message(2));
    runCpu(machine);
    expect(numbers).toEqual([2]);
    expect(machine.cpu.counters.messagesDropped).toBe(1);
  });

  test("without anybody to get them are taken and dropped", () => {
    const machine = startCpu();
    machine.hypervisor.send(message(1), message(2));
    runCpu(machine);
    expect(machine.cpu.counters).toMatchObject({ messages: 2, messagesDropped: 2 });
    expect(machine.hypervisor.backlog).toBe(0);
  });

  test("come after events: the channels are masked when a message is handled", () => {
    const machine = startCpu();
    const description = describeChannel(machine, 9);
    machine.cpu.bindChannel(description, new Sink());
    runCpu(machine);
    const incoming = (description.ringAddress + RING_PAGES * PAGE_SIZE) >>> 2;
    const masks: number[] = [];
    machine.cpu.setMessageHandler(() =>
      masks.push(machine.memory.words[incoming + ControlPage.interruptMaskWord]!),
    );
    EventFlags.at(machine.memory, machine.hypervisor.flagsAddress, 256).set(9);
    machine.hypervisor.send(message(1));
    machine.cpu.interrupt();
    expect(masks).toEqual([1]);
  });

  test("are posted as the hypervisor wants them", () => {
    const machine = startCpu();
    const { hypervisor, allocator, cpu } = machine;
    expect(cpu.postMessage(1, message(1))).toBe(HypercallStatus.invalidHypercallCode);
    new HypercallPage(hypervisor, allocator);
    const posted: [number, number[]][] = [];
    hypervisor.posted = (connectionId, bytes) => {
      posted.push([connectionId, [...bytes]]);
      return connectionId === 1 ? HypercallStatus.success : HypercallStatus.insufficientBuffers;
    };
    expect(cpu.postMessage(1, new Uint8Array(240).fill(3))).toBe(HypercallStatus.success);
    expect(cpu.postMessage(4, message(7))).toBe(HypercallStatus.insufficientBuffers);
    expect(posted).toEqual([
      [1, new Array(240).fill(3)],
      [4, [...message(7)]],
    ]);
    expect(() => cpu.postMessage(1, new Uint8Array(241))).toThrow(RangeError);
  });
});

describe("events", () => {
  test("from 2.4 on a flag is a relid", () => {
    const machine = startCpu();
    const sink = new Sink();
    const description = describeChannel(machine, 2047);
    machine.cpu.bindChannel(description, sink);
    runCpu(machine);
    const host = hostRing(machine, description);
    putInBand(host, 1, 8);
    expect(host.publish()).toBe(true);
    const flags = EventFlags.at(
      machine.memory,
      machine.hypervisor.flagsAddress,
      EventFlagsPage.areaBytes,
    );
    flags.set(2046);
    machine.cpu.interrupt();
    runCpu(machine);
    expect(sink.ids).toEqual([]);
    flags.set(2047);
    machine.cpu.interrupt();
    runCpu(machine);
    expect(sink.ids).toEqual([1]);
  });

  test("signal optimization is that of all channels of the CPU, of those to come too", () => {
    const { cpu, ...machine } = startCpu();
    const bind = (relid: number) =>
      cpu.bindChannel(describeChannel({ cpu, ...machine }, relid), new Sink());
    const first = bind(1);
    expect([cpu.signalOptimization, first.signalOptimization]).toEqual([true, true]);
    cpu.signalOptimization = false;
    const second = bind(2);
    expect([first.signalOptimization, second.signalOptimization]).toEqual([false, false]);
    cpu.signalOptimization = true;
    expect([first.signalOptimization, second.signalOptimization]).toEqual([true, true]);
  });

  test("below 2.4 flag 0 stands for the first 256 bits of the interrupt page", () => {
    const machine = startCpu();
    const { memory, hypervisor, allocator, cpu } = machine;
    const page = allocator.allocate(1)!;
    cpu.useInterruptPage(page);
    const sinks = [new Sink(), new Sink()];
    const descriptions = [describeChannel(machine, 255), describeChannel(machine, 300)];
    for (const [index, sink] of sinks.entries()) {
      cpu.bindChannel(descriptions[index]!, sink);
      const host = hostRing(machine, descriptions[index]!);
      runCpu(machine);
      putInBand(host, index, 8);
      host.publish();
    }
    const flags = EventFlags.at(memory, hypervisor.flagsAddress, EventFlagsPage.areaBytes);
    const receive = EventFlags.at(memory, page + InterruptPage.receive, InterruptPage.halfBytes);
    receive.set(255);
    receive.set(300);
    flags.set(255);
    cpu.interrupt();
    runCpu(machine);
    expect(sinks.map((sink) => sink.ids)).toEqual([[], []]);
    flags.set(0);
    cpu.interrupt();
    runCpu(machine);
    expect(sinks.map((sink) => sink.ids)).toEqual([[0], []]);
    expect(flags.clear(0)).toBe(false);
    cpu.useInterruptPage(undefined);
    cpu.interrupt();
    runCpu(machine);
    expect(cpu.counters.interrupts).toBe(3);
  });
});

describe("channels", () => {
  test("a bound channel has what came before it was bound", () => {
    const machine = startCpu();
    const description = describeChannel(machine, 3);
    const host = hostRing(machine, description);
    putInBand(host, 4, 8);
    host.publish();
    const sink = new Sink();
    machine.cpu.bindChannel(description, sink);
    runCpu(machine);
    expect(sink.ids).toEqual([4]);
  });

  test("the rings lie where the description says", () => {
    const machine = startCpu();
    const description = { ...describeChannel(machine, 3), outgoingPages: 3, incomingPages: 1 };
    expect(() => machine.cpu.bindChannel(description, new Sink())).toThrow(RangeError);
    const { outgoing, incoming } = machine.cpu.bindChannel(
      { ...description, outgoingPages: 2, incomingPages: 2 },
      new Sink(),
    );
    expect([outgoing.sizeBytes, incoming.sizeBytes]).toEqual([PAGE_SIZE, PAGE_SIZE]);
  });

  test("a channel of another processor is refused", () => {
    const machine = startCpu();
    const description = { ...describeChannel(machine, 3), targetVp: VP_INDEX + 1 };
    expect(() => machine.cpu.bindChannel(description, new Sink())).toThrow("is for VP");
  });

  test("an unbound channel is told once and gets nothing more", () => {
    const machine = startCpu();
    const description = describeChannel(machine, 3);
    const sink = new Sink();
    const channel = machine.cpu.bindChannel(description, sink);
    runCpu(machine);
    const host = hostRing(machine, description);
    putInBand(host, 4, 8);
    host.publish();
    machine.cpu.unbindChannel(description);
    machine.cpu.unbindChannel(description);
    EventFlags.at(machine.memory, machine.hypervisor.flagsAddress, 256).set(3);
    machine.cpu.interrupt();
    runCpu(machine);
    expect([sink.ids, sink.reasons, channel.closedReason]).toEqual([[], ["closed"], "closed"]);
    machine.cpu.bindChannel(description, new Sink());
  });

  test("after a rescind the handler gets what is in the ring, then the end, and the host no signals", () => {
    const machine = startCpu();
    new HypercallPage(machine.hypervisor, machine.allocator);
    const description = describeChannel(machine, 3);
    const sink = new Sink();
    const channel = machine.cpu.bindChannel(description, sink);
    runCpu(machine);
    const host = hostRing(machine, description);
    for (const id of [4, 5, 6]) putInBand(host, id, 8);
    host.publish();
    channel.begin(6, 0, 16, 16, 1, 0);
    channel.outgoing.end();
    machine.cpu.unbindChannel(description, "rescinded");
    expect([sink.ids, sink.reasons]).toEqual([[4, 5, 6], ["rescinded"]]);
    expect(machine.hypervisor.signals).toEqual([]);
  });

  test("a CPU with channels cannot be stopped", () => {
    const machine = startCpu();
    const description = describeChannel(machine, 3);
    machine.cpu.bindChannel(description, new Sink());
    expect(() => machine.cpu.stop()).toThrow("still bound");
    machine.cpu.unbindChannel(description);
    machine.cpu.stop();
  });
});

describe("signals to the host", () => {
  const INTERRUPT_PAGE = 40 * PAGE_SIZE;
  const MONITOR_PAGE = 41 * PAGE_SIZE;
  const roads: [string, HostSignal][] = [
    ["by hypercall", { connectionId: 0x200e }],
    [
      "by hypercall and the interrupt page",
      {
        connectionId: ConnectionId.event,
        interruptPageAddress: INTERRUPT_PAGE + InterruptPage.send,
      },
    ],
    [
      "by the monitor page",
      { connectionId: 0x200e, monitor: { pendingAddress: MONITOR_PAGE + 24, bit: 31 } },
    ],
    [
      "by the monitor page and the interrupt page",
      {
        connectionId: 0x200e,
        interruptPageAddress: INTERRUPT_PAGE + InterruptPage.send,
        monitor: { pendingAddress: MONITOR_PAGE + 8, bit: 0 },
      },
    ],
  ];

  test.each(roads)("%s", (_road, signal) => {
    const machine = startCpu({ pages: 64 });
    const { memory, hypervisor, allocator, cpu } = machine;
    new HypercallPage(hypervisor, allocator);
    const channel = cpu.bindChannel(describeChannel(machine, 14, signal), new Sink());
    runCpu(machine);
    sendPacket(channel);
    expect(channel.counters.signalsSent).toBe(1);
    const marked = signal.interruptPageAddress !== undefined;
    const sent = EventFlags.at(
      memory,
      INTERRUPT_PAGE + InterruptPage.send,
      InterruptPage.halfBytes,
    );
    expect(sent.clear(14)).toBe(marked);
    const { monitor } = signal;
    expect(hypervisor.signals).toEqual(monitor === undefined ? [[signal.connectionId, 0]] : []);
    const page = memory.words.subarray(MONITOR_PAGE >>> 2, (MONITOR_PAGE + PAGE_SIZE) >>> 2);
    const set = page.reduce((bits, word) => bits | word, 0);
    expect(set).toBe(monitor === undefined ? 0 : 1 << monitor.bit);
    if (monitor !== undefined) expect(memory.words[monitor.pendingAddress >>> 2]).toBe(set);
  });

  test("by the monitor page leave the bits of other channels alone", () => {
    const machine = startCpu({ pages: 64 });
    const monitor = { pendingAddress: MONITOR_PAGE + 8, bit: 4 };
    machine.memory.words[monitor.pendingAddress >>> 2] = 0x8000_0001 | 0;
    const description = describeChannel(machine, 14, { connectionId: 0x200e, monitor });
    sendPacket(machine.cpu.bindChannel(description, new Sink()));
    expect(machine.memory.words[monitor.pendingAddress >>> 2]! >>> 0).toBe(0x8000_0011);
  });

  test("two packets before the host looks are one signal", () => {
    const machine = startCpu();
    new HypercallPage(machine.hypervisor, machine.allocator);
    const channel = machine.cpu.bindChannel(describeChannel(machine, 14), new Sink());
    runCpu(machine);
    sendPacket(channel);
    sendPacket(channel);
    expect(machine.hypervisor.signals).toHaveLength(1);
  });
});
