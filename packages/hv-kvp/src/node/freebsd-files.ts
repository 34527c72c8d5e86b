import { join } from "node:path";
import {
  editRcConf,
  editResolvConf,
  parseRcConf,
  parseResolvConf,
  rcConfHasDhcp,
} from "../network-files.js";
import type { IpAddress, IpSettings } from "../protocol/index.js";
import { readText, replaceText } from "./system-files.js";

/** What FreeBSD keeps of its network between two boots: `etc/rc.conf` and `etc/resolv.conf` below a root directory. */
export class FreebsdFiles {
  readonly #rcConf: string;
  readonly #resolvConf: string;

  constructor(root = "/") {
    this.#rcConf = join(root, "etc/rc.conf");
    this.#resolvConf = join(root, "etc/resolv.conf");
  }

  /** What becomes of an interface at boot; undefined if the files say nothing of it. */
  read(name: string): IpSettings | undefined {
    const settings = parseRcConf(readText(this.#rcConf), name);
    return settings && { ...settings, dnsServers: this.nameServers };
  }

  /** Whether an interface asks for its address. */
  hasDhcp(name: string): boolean {
    return rcConfHasDhcp(readText(this.#rcConf), name);
  }

  get nameServers(): readonly IpAddress[] {
    return parseResolvConf(readText(this.#resolvConf));
  }

  /** Has an interface be so from the next boot on. Without name servers, those that there are stay. Throws `ERR_KVP_NETWORK`. */
  keep(name: string, settings: IpSettings): void {
    replaceText(this.#rcConf, editRcConf(readText(this.#rcConf), name, settings));
    const { dnsServers } = settings;
    if (dnsServers.length === 0) return;
    replaceText(this.#resolvConf, editResolvConf(readText(this.#resolvConf), dnsServers));
  }
}
