import { NO_VLAN_TAG, type Frame } from "./frame.js";
import type { VlanMode } from "./switch-port.js";
import { vlanIdOf } from "./vlan-tag.js";

/** The highest VLAN id; the one above it is reserved. */
export const VLAN_ID_MAX = 4094;
const PRIORITY_MASK = 0xf000;

/** The VLANs of a port, and what its frames' tags mean there. */
export class VlanMembership {
  readonly #isTrunk: boolean;
  /** The VLAN whose frames are untagged at the port. */
  readonly #untaggedId: number;
  readonly #members = new Uint8Array(VLAN_ID_MAX + 1);

  /** Throws a RangeError for an id that is none. */
  constructor(vlan: VlanMode) {
    const isTrunk = vlan.mode === "trunk";
    this.#isTrunk = isTrunk;
    this.#untaggedId = checkId(isTrunk ? vlan.nativeId : vlan.id);
    if (isTrunk && vlan.allowedIds === undefined) this.#members.fill(1);
    else if (isTrunk) for (const id of vlan.allowedIds ?? []) this.#members[checkId(id)] = 1;
    this.#members[this.#untaggedId] = 1;
  }

  /** True if the port is in the VLAN. */
  has(id: number): boolean {
    return this.#members[id] === 1;
  }

  /**
   * The VLAN of a frame that the port's end sends; -1 if the port is not in it. Its tag is only a priority afterwards.
   */
  enter(frame: Frame): number {
    const tag = frame.vlanTag;
    const id = tag === NO_VLAN_TAG ? 0 : vlanIdOf(tag);
    const vlan = id === 0 ? this.#untaggedId : id;
    if (!this.has(vlan)) return -1;
    if (tag !== NO_VLAN_TAG) frame.vlanTag = tag & PRIORITY_MASK;
    return vlan;
  }

  /** Tag at this port of a frame in a VLAN. @param priorityTag - as `enter` left it. */
  tagOf(vlan: number, priorityTag: number): number {
    if (!this.#isTrunk || vlan === this.#untaggedId) return NO_VLAN_TAG;
    return priorityTag === NO_VLAN_TAG ? vlan : priorityTag | vlan;
  }
}

function checkId(id: number): number {
  if (!Number.isInteger(id) || id < 0 || id > VLAN_ID_MAX)
    throw new RangeError(`${id} is no VLAN id: they are 1 to ${VLAN_ID_MAX}, and 0 for none`);
  return id;
}
