import type { Guid } from "@hyperv-is/vmbus-core/protocol";
import type { NetvscChannel, NetvscInterface } from "@hyperv-is/hv-netvsc";
import type { Vcpu } from "@hyperv-is/platform-node";
import type { GuestMemory, PageAllocator } from "@hyperv-is/vmbus-core";
import { formatMac } from "../addresses.js";
import type { GuestNetwork } from "../guest-network.js";
import type { NetworkInterface } from "../network-interface.js";
import { HnDevice } from "./hn-device.js";
import type { NicStack } from "./nic-stack.js";
import { usePort, type PortUse, type RelayedFrames } from "./port-use.js";
import { TapStack } from "./tap-stack.js";

export interface HnInterfacesOptions extends Pick<Vcpu, "drive" | "watch" | "doorbell"> {
  readonly network: GuestNetwork;
  readonly memory: GuestMemory;
  /** Of the boot processor. */
  readonly allocator: PageAllocator;
  /** Whose the frames of each adapter are, by instance id; the guest's own stack's unless told. */
  readonly stacks: ReadonlyMap<string, NicStack>;
  /** Has another CPU use a port of its own. */
  usePort(cpu: number, use: PortUse): Promise<void>;
  /** One line for dmesg. */
  readonly print: (line: string) => void;
}

/** An attached interface. */
export interface HnInterface {
  /** `hn0`. */
  readonly name: string;
  readonly instanceId: Guid;
  readonly netvsc: NetvscInterface;
  readonly stack: NicStack;
  readonly device: HnDevice;
  /** As the guest's own stack has it. */
  readonly interface: NetworkInterface;
  /** Linux, where that is the stack. */
  readonly tap: TapStack | undefined;
}

/** The network adapters of the kernel: gives their frames to whom they belong on each CPU, and tells of their links. */
export class HnInterfaces {
  readonly #options: HnInterfacesOptions;
  readonly #interfaces = new Map<NetvscInterface, HnInterface>();
  /** What ends the news of each. */
  readonly #listening = new Map<NetvscInterface, () => void>();

  constructor(options: HnInterfacesOptions) {
    this.#options = options;
  }

  /** In the order in which they were attached. */
  get list(): readonly HnInterface[] {
    return [...this.#interfaces.values()];
  }

  /** Takes an interface in. @param name - Of the device. */
  async attach(netvsc: NetvscInterface, name: string, instanceId: Guid): Promise<HnInterface> {
    const { network, memory, allocator, stacks, print } = this.#options;
    const stack: NicStack = stacks.get(instanceId) ?? { kind: "builtin" };
    const tap = stack.kind === "tap" ? new TapStack(netvsc, stack) : undefined;
    const device = new HnDevice({
      name,
      netvsc,
      memory,
      allocator,
      portsChanged() {
        tap?.renew();
        return usePorts();
      },
      macAddressChanged: tap && ((mac) => tap.setMacAddress(mac)),
      log: (line) => print(`${name}: ${line}`),
    });
    const attached: HnInterface = {
      name,
      instanceId,
      netvsc,
      stack,
      device,
      interface: network.stack.attach(device),
      tap,
    };
    const usePorts = (): Promise<void> => this.#usePorts(attached);
    device.connect(attached.interface);
    this.#interfaces.set(netvsc, attached);
    print(`${name}: Ethernet address: ${formatMac(netvsc.address)}`);
    const stopListening = netvsc.on({
      linkChanged(link) {
        device.linkChanged(link);
        tap?.linkChanged(link);
      },
      gone: () => device.linkChanged(netvsc.link),
    });
    this.#listening.set(netvsc, stopListening);
    await usePorts();
    // Linux has it up; the own stack of the guest waits for its administrator.
    if (tap !== undefined) await attached.interface.setUp(true);
    // Until now it was not known.
    attached.interface.linkChanged();
    return attached;
  }

  /** Forgets an interface that is gone. */
  detach(netvsc: NetvscInterface): void {
    const attached = this.#interfaces.get(netvsc);
    if (attached === undefined) return;
    this.#interfaces.delete(netvsc);
    this.#listening.get(netvsc)?.();
    this.#listening.delete(netvsc);
    this.#options.network.detach(attached.interface);
    attached.device.close();
    attached.tap?.close();
  }

  /** Takes an interface out of use, in good order. */
  async shutDown(netvsc: NetvscInterface): Promise<void> {
    await netvsc.detach();
    this.#interfaces.get(netvsc)?.tap?.close();
  }

  /** Frames that came on another CPU. */
  deliver(frames: RelayedFrames): void {
    this.list.find(({ name }) => name === frames.interface)?.device.take(frames);
  }

  /** Gives every port of an interface a user. */
  async #usePorts(attached: HnInterface): Promise<void> {
    const { netvsc, device, stack } = attached;
    if (stack.kind === "builtin") device.usePort(netvsc.port);
    const others = netvsc.channels.filter(({ index }) => index !== 0 || stack.kind !== "builtin");
    await Promise.all(others.map((channel) => this.#useChannel(attached, channel)));
  }

  /** A channel whose CPU goes away goes too. */
  async #useChannel({ name, netvsc, tap }: HnInterface, channel: NetvscChannel): Promise<void> {
    const { memory, allocator, drive, watch, doorbell, print } = this.#options;
    const stack = tap?.portOf(netvsc.channels.indexOf(channel)) ?? { kind: "builtin" };
    const use: PortUse = { relid: channel.relid, interface: name, stack };
    const { local } = channel.handle;
    try {
      if (local === undefined) await this.#options.usePort(channel.cpu, use);
      else
        local.port.user = usePort(local.port, use, {
          memory,
          allocator,
          drive,
          watch,
          doorbell,
          deliver: (frames) => {
            this.deliver(frames);
            return Promise.resolve();
          },
        });
    } catch (error) {
      print(`${name}: chan${channel.relid} on cpu${channel.cpu}: ${(error as Error).message}`);
    }
  }
}
