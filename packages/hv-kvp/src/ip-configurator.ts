import type { IpSettings } from "./protocol/index.js";

/** The network of the guest, as the daemon reads and changes it. */
export interface IpConfigurator {
  /** Settings of the interface with a MAC address (`00:15:5D:01:02:03`); undefined if there is none. */
  read(mac: string): Promise<IpSettings | undefined>;
  /**
   * Applies settings to an interface, and keeps them across reboots.
   *
   * @param adapterId - What the kernel's dialect has: the interface's name in FreeBSD's, the instance GUID of its
   *   channel in braces in Linux's. Text of the host: to be compared, never to be passed on.
   * @returns False if there is no such interface.
   * Rejects with `ERR_KVP_NETWORK` if anything of it failed.
   */
  apply(adapterId: string, settings: IpSettings): Promise<boolean>;
}

/** A network in which the host may change nothing and sees nothing. */
export const noNetwork: IpConfigurator = {
  read: () => Promise.resolve(undefined),
  apply: () => Promise.resolve(false),
};
