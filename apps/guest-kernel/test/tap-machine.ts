import { once } from "node:events";
import { boot, type Machine } from "@hyperv-is/guest-kernel";
import { Namespace } from "../../../packages/hyperv-host/test/namespaces.js";

/** Name of the TAP in each namespace. */
export const DEVICE = "tap0";

/** Addresses of the guest's side and of the far side. */
export const addresses = {
  near: { ipv4: "192.0.2.1", ipv6: "2001:db8::1" },
  far: { ipv4: "192.0.2.2", ipv6: "2001:db8::2" },
} as const;

export interface TapMachineOptions {
  /** Processors, and so channels; 1 unless told. */
  readonly cpus?: number;
  readonly receiveCoalescing?: boolean;
}

/** A guest whose network stack is Linux's in one namespace, at a switch that leads to another namespace. */
export class TapMachine implements AsyncDisposable {
  readonly machine: Machine;
  readonly near: Namespace;
  readonly far: Namespace;

  private constructor(machine: Machine, near: Namespace, far: Namespace) {
    this.machine = machine;
    this.near = near;
    this.far = far;
  }

  static async boot({
    cpus = 1,
    receiveCoalescing = true,
  }: TapMachineOptions): Promise<TapMachine> {
    const [near, far] = [new Namespace(), new Namespace()];
    const machine = await boot({
      cpus,
      nics: [
        {
          switch: "lan",
          receiveCoalescing,
          stack: { kind: "tap", name: DEVICE, netns: near.name },
        },
      ],
      switches: [{ name: "lan", uplinks: [{ kind: "tap", name: DEVICE, netns: far.name }] }],
    });
    const made = new TapMachine(machine, near, far);
    for (const [side, { ipv4, ipv6 }] of [
      [near, addresses.near],
      [far, addresses.far],
    ] as const) {
      side.address(DEVICE, `${ipv4}/24`);
      side.address(DEVICE, `${ipv6}/64`);
    }
    return made;
  }

  /** Sets the MTU of both ends; that of the guest by its own command. */
  async setMtu(mtu: number): Promise<void> {
    const { status, stderr } = await this.machine.exec(`ifconfig hn0 mtu ${mtu}`);
    if (status !== 0) throw new Error(stderr);
    this.far.run("ip", "link", "set", DEVICE, "mtu", String(mtu));
  }

  /** Switches an offload of the kernel on or off at both ends, as ethtool names it. */
  setOffload(name: "tso" | "tx", on: boolean): void {
    for (const side of [this.near, this.far])
      side.run("ethtool", "-K", DEVICE, name, on ? "on" : "off");
  }

  /** Pings the far side; throws if one is lost. */
  async ping(count = 3): Promise<void> {
    const ping = this.near.start("ping", "-c", String(count), "-i", "0.02", addresses.far.ipv4);
    ping.stdout!.resume();
    const [code] = (await once(ping, "exit")) as [number];
    if (code !== 0) throw new Error("a ping was lost");
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.machine.shutdown();
    this.near.delete();
    this.far.delete();
  }
}
