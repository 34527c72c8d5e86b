// A virtual processor that runs the channel suite on channels of its own. The boot processor has the bus besides, and
// opens and closes channels for all.
import { channelSuite } from "@hyperv-is/conformance";
import { HypervisorState, VirtualProcessor } from "@hyperv-is/hyperv-host";
import { DoorbellBells } from "@hyperv-is/hyperv-host/node/processor";
import { NodeClock, runVcpu } from "@hyperv-is/platform-node";
import { CallLink, Vmbus } from "@hyperv-is/vmbus-core";
import { RING_MIN_PAGES } from "@hyperv-is/vmbus-core/protocol";

/** @import { ChannelPeer, ChannelSetup } from "@hyperv-is/conformance" */
/** @import { Vcpu } from "@hyperv-is/platform-node" */
/** @import { Channel, ChannelDescription, ChannelHandler, VmbusDevice } from "@hyperv-is/vmbus-core" */

/** @typedef {{ state: SharedArrayBuffer, cpus: number }} Program */

/**
 * What the boot processor does for the others; the device of a processor is the one at its number.
 * @typedef {object} BusProcedures
 * @property {(cpu: number) => Promise<ChannelDescription>} prepare
 * @property {(opening: { cpu: number, channel: ChannelDescription, peer: ChannelPeer }) => Promise<void>} open
 * @property {(closing: { cpu: number, channel: ChannelDescription }) => Promise<void>} close
 * @property {(cpu: number) => void} finished
 */

/** @typedef {{ begin(nothing: undefined): void }} SuiteProcedures */

const BOOT_CPU = 0;
/** Memory of the suite beside the rings. */
const SCRATCH_PAGES = 16;
/** How long an end may take for what the other waits for, on a busy machine. */
const PATIENCE_MS = 60_000;

/** The bus on the boot processor. */
class Boot {
  /** @type {readonly VmbusDevice[]} */
  #devices = [];
  #left;
  /** @type {() => void} */
  #end = () => undefined;
  #ended = new Promise((resolve) => (this.#end = () => resolve(undefined)));
  #vcpu;
  #vmbus;
  /** @type {readonly CallLink<BusProcedures, SuiteProcedures>[]} */
  #others;

  /** @param {Vcpu<Program>} vcpu */
  constructor(vcpu) {
    this.#vcpu = vcpu;
    const { cpus } = vcpu.data.program;
    this.#left = cpus;
    const vpIndexes = Array.from({ length: cpus }, (_, vp) => vp);
    this.#vmbus = new Vmbus({ cpu: vcpu.cpu, hypervisor: vcpu.hypervisor, vpIndexes });
    this.#others = vpIndexes.slice(1).map((cpu) => new CallLink(line(vcpu, cpu), this.procedures));
  }

  /** @type {BusProcedures} */
  procedures = {
    prepare: (cpu) =>
      this.#device(cpu).prepareChannel({
        outgoingPages: RING_MIN_PAGES,
        incomingPages: RING_MIN_PAGES,
        cpu,
      }),
    open: ({ cpu, channel, peer }) =>
      this.#device(cpu).openChannel(channel, Uint8Array.of(peer === "echo" ? 0 : 1)),
    close: ({ cpu, channel }) => this.#device(cpu).closeChannel(channel),
    finished: () => {
      if (--this.#left === 0) this.#end();
    },
  };

  async run() {
    this.#vcpu.cpu.start();
    await this.#vmbus.connect();
    await this.#vmbus.requestOffers();
    this.#devices = this.#vmbus.devices;
    for (const other of this.#others) void other.call("begin", undefined);
    await runSuite(this.#vcpu, {
      prepare: async (cpu) => this.procedures.prepare(cpu),
      open: async (opening) => this.procedures.open(opening),
      close: async (closing) => this.procedures.close(closing),
    });
    this.procedures.finished(BOOT_CPU);
    await this.#ended;
    await this.#vmbus.unload();
    this.#vcpu.cpu.stop();
  }

  /**
   * @param {unknown} message
   * @param {number} from
   */
  receive(message, from) {
    this.#others[from - 1]?.receive(message);
  }

  /** @param {number} cpu */
  #device(cpu) {
    const device = this.#devices[cpu];
    if (device === undefined) throw new Error(`there is no device for cpu${cpu}`);
    return device;
  }
}

/** Any other processor. */
class Other {
  #vcpu;
  /** @type {CallLink<SuiteProcedures, BusProcedures>} */
  #calls;
  /** @type {() => void} */
  #begin = () => undefined;
  #begun = new Promise((resolve) => (this.#begin = () => resolve(undefined)));

  /** @param {Vcpu<Program>} vcpu */
  constructor(vcpu) {
    this.#vcpu = vcpu;
    this.#calls = new CallLink(line(vcpu, BOOT_CPU), { begin: () => this.#begin() });
  }

  async run() {
    this.#vcpu.cpu.start();
    await this.#begun;
    await runSuite(this.#vcpu, {
      prepare: (cpu) => this.#calls.call("prepare", cpu),
      open: (opening) => this.#calls.call("open", opening),
      close: (closing) => this.#calls.call("close", closing),
    });
    this.#vcpu.cpu.stop();
    await this.#calls.call("finished", this.#vcpu.index);
  }

  /** @param {unknown} message */
  receive(message) {
    this.#calls.receive(message);
  }
}

/**
 * Runs every case, and tells the machine how each ended.
 * @param {Vcpu<Program>} vcpu
 * @param {Omit<BusProcedures, "finished">} bus
 */
async function runSuite(vcpu, bus) {
  const setup = channelSetup(vcpu, bus);
  for (const { name, run } of channelSuite) {
    /** @type {string | undefined} */
    let error;
    try {
      await run(setup);
    } catch (cause) {
      error = String(cause);
    }
    vcpu.starter.send({ cpu: vcpu.index, name, error });
  }
}

/**
 * Channels whose near end is on this processor; the rings are of the minimum size, whatever a case asks for.
 * @param {Vcpu<Program>} vcpu
 * @param {Omit<BusProcedures, "finished">} bus
 * @returns {ChannelSetup}
 */
function channelSetup({ cpu, memory, timers, index }, bus) {
  return {
    async connect(_ringPages, peer, handler) {
      const description = await bus.prepare(index);
      const watched = new Watched(handler);
      const channel = cpu.bindChannel(description, watched);
      await bus.open({ cpu: index, channel: description, peer });
      const scratchAddress = cpu.allocator.allocate(SCRATCH_PAGES);
      if (scratchAddress === undefined) throw new Error("the processor's arena is used up");
      return {
        channel,
        memory,
        scratchAddress,
        until: (done) =>
          new Promise((resolve, reject) => {
            const timer = timers.after(PATIENCE_MS, () => reject(new Error("nothing came")));
            watched.until(done, () => {
              timer.cancel();
              resolve(undefined);
            });
          }),
        close: async () => {
          cpu.unbindChannel(description);
          await bus.close({ cpu: index, channel: description });
          cpu.allocator.free(scratchAddress);
        },
      };
    },
  };
}

/**
 * A handler, and somebody who waits for what it does.
 * @implements {ChannelHandler}
 */
class Watched {
  #handler;
  /** @type {{ done: () => boolean, resolve: () => void }[]} */
  #waiting = [];

  /** @param {ChannelHandler} handler */
  constructor(handler) {
    this.#handler = handler;
  }

  /**
   * @param {() => boolean} done
   * @param {() => void} resolve
   */
  until(done, resolve) {
    this.#waiting.push({ done, resolve });
    this.#look();
  }

  /** @param {Channel} channel */
  packet(channel) {
    this.#handler.packet(channel);
  }

  /** @param {Channel} channel */
  batchEnd(channel) {
    this.#handler.batchEnd(channel);
    this.#look();
  }

  /** @param {Channel} channel */
  spaceArrived(channel) {
    this.#handler.spaceArrived(channel);
    this.#look();
  }

  /**
   * @param {Channel} channel
   * @param {import("@hyperv-is/vmbus-core").ChannelClosedReason} reason
   */
  closed(channel, reason) {
    this.#handler.closed(channel, reason);
    this.#look();
  }

  #look() {
    for (const waiter of this.#waiting.splice(0))
      if (waiter.done()) waiter.resolve();
      else this.#waiting.push(waiter);
  }
}

/**
 * @param {Vcpu<Program>} vcpu
 * @param {number} cpu
 */
function line(vcpu, cpu) {
  const found = vcpu.peer(cpu);
  if (found === undefined) throw new Error(`there is no line to cpu${cpu}`);
  return found;
}

/** @type {Boot | Other | undefined} */
let processor;

await runVcpu([], {
  hypervisor(
    /** @type {import("@hyperv-is/platform-node").WorkerContext<import("@hyperv-is/platform-node").VcpuData<Program>> & { memory: import("@hyperv-is/platform-node").SharedGuestMemory }} */ {
      data,
      memory,
    },
  ) {
    const state = new HypervisorState(data.program.state);
    const bells = new DoorbellBells(state);
    return new VirtualProcessor({
      state,
      memory,
      index: data.index,
      bells,
      clock: new NodeClock(),
    });
  },
  main(vcpu) {
    processor = vcpu.index === BOOT_CPU ? new Boot(vcpu) : new Other(vcpu);
    return processor.run();
  },
  message(_vcpu, message, from) {
    if (from !== undefined) processor?.receive(message, from);
  },
});
