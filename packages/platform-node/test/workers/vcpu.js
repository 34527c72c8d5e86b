// A virtual processor of the tests: does what the machine's messages say.
import { setTimeout } from "node:timers";
import { runVcpu } from "@hyperv-is/platform-node";
import { CrossoverPort } from "./crossover.js";
import * as echo from "./echo-driver.js";

/** @import { ChannelDescription } from "@hyperv-is/vmbus-core" */
/** @import { Vcpu, VcpuData } from "@hyperv-is/platform-node" */
/** @import { EchoDescription, EchoQueue } from "./echo-driver.js" */

/** @typedef {{ words: Int32Array }} Program */

/**
 * @typedef {{ order: "open" | "open later", driver: string, echo: EchoDescription } | { order: "go" }
 *   | { order: "rescind", channel: ChannelDescription } | { order: "load", file: string }
 *   | { order: "hop", left: number } | { order: "halt" }} Order
 */

/** @type {EchoQueue | undefined} */
let queue;
/** @type {() => void} */
let halt = () => undefined;

await runVcpu([echo], {
  hypervisor: (/** @type {{ data: VcpuData<Program> }} */ { data }) =>
    new CrossoverPort(data.program.words, data.index),
  main: async (vcpu) => {
    vcpu.cpu.start();
    vcpu.starter.send({ up: [...vcpu.drivers.keys()] });
    await new Promise((resolve) => (halt = () => resolve(undefined)));
  },
  message(vcpu, message, from) {
    if (from !== undefined) return hop(vcpu, /** @type {number} */ (message), from);
    const order = /** @type {Order} */ (message);
    switch (order.order) {
      case "open":
        queue = startEcho(vcpu, order);
        void queue.finished.then((result) => vcpu.starter.send(result));
        vcpu.starter.send("bound");
        return;
      case "open later":
        // By one of Node's events, while the pump sleeps.
        setTimeout(() => {
          queue = startEcho(vcpu, order);
          void queue.greeted.then(() => vcpu.starter.send("heard"));
        }, 20);
        return;
      case "go":
        return queue?.start();
      case "rescind":
        return vcpu.cpu.unbindChannel(order.channel, "rescinded");
      case "load":
        return void vcpu.loadDriver(order.file).then(
          ({ name }) => vcpu.starter.send({ loaded: name }),
          (/** @type {{ code: string, message: string }} */ { code, message: text }) =>
            vcpu.starter.send({ code, text }),
        );
      case "hop":
        return hop(vcpu, order.left, undefined);
      case "halt":
        vcpu.cpu.stop();
        return halt();
    }
  },
});

/**
 * @param {Vcpu<Program>} vcpu
 * @param {{ driver: string, echo: EchoDescription }} order
 */
function startEcho(vcpu, { driver, echo: description }) {
  const half = vcpu.startQueue(driver, description, () => undefined);
  return /** @type {EchoQueue} */ (/** @type {unknown} */ (half));
}

/**
 * Passes a number on to the next processor, one less, until it is 0.
 * @param {Vcpu<Program>} vcpu
 * @param {number} left @param {number | undefined} from
 */
function hop(vcpu, left, from) {
  const cpus = (vcpu.data.peers?.length ?? 0) + 1;
  const next = (vcpu.index + 1) % cpus;
  if (left === 0) vcpu.starter.send({ from, at: vcpu.index });
  else vcpu.peer(next)?.send(left - 1);
}
