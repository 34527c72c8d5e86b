import { EventFlags, type EventFlagsFactory, type GuestMemory } from "@hyperv-is/vmbus-core";
import { EventFlagsPage, MessageSlot, SINT_COUNT, Sint } from "@hyperv-is/vmbus-core/protocol";
import type { Bells } from "./bells.js";
import { VpRegister, type HypervisorState } from "./hypervisor-state.js";

/** The low half of a SINT, as numbers. */
const VECTOR = Number(Sint.vectorMask);
const MASKED = Number(Sint.masked);
const AUTO_EOI = Number(Sint.autoEoi);
const POLLING = Number(Sint.polling);

const ENABLED = 1;
const PAGE = ~0xfff;

interface Area {
  readonly siefp: number;
  readonly flags: EventFlags;
}

/**
 * The host's side of the synthetic interrupt controllers: sets event flags and asks for interrupts.
 * One object per host thread. Rules: openvmm `vm/hv1/hv1_emulator/src/synic.rs`.
 */
export class SyntheticInterrupts {
  readonly #state: HypervisorState;
  readonly #memory: GuestMemory;
  readonly #bells: Bells;
  readonly #makeEventFlags: EventFlagsFactory;
  /** The area last used of each processor and SINT, for as long as the guest leaves the page where it is. */
  readonly #areas: (Area | undefined)[];

  constructor(
    state: HypervisorState,
    memory: GuestMemory,
    bells: Bells,
    makeEventFlags: EventFlagsFactory = (...area) => EventFlags.at(...area),
  ) {
    this.#state = state;
    this.#memory = memory;
    this.#bells = bells;
    this.#makeEventFlags = makeEventFlags;
    this.#areas = new Array<Area | undefined>(state.vpCount * SINT_COUNT).fill(undefined);
  }

  /**
   * Sets an event flag, and interrupts the processor if the flag was clear before.
   *
   * Nothing at all happens, and the signal is lost, if the processor does not exist, its SynIC is off,
   * the SINT is masked, there is no event-flags page, or the flag is 2048 or more. A SINT in polling mode
   * gets the flag but no interrupt.
   *
   * @returns True if the flag was newly set.
   */
  signalEvent(vp: number, sint: number, flag: number): boolean {
    if (vp >= this.#state.vpCount || sint >= SINT_COUNT || flag >= EventFlagsPage.flagsPerArea)
      return false;
    const register = this.#state.sint(vp, sint);
    if ((register & MASKED) !== 0 || !this.#isOn(vp)) return false;
    const siefp = this.#low(vp, VpRegister.siefp);
    if ((siefp & ENABLED) === 0) return false;
    if (!this.#area(vp, sint, siefp).set(flag)) return false;
    this.#interrupt(vp, sint, register);
    return true;
  }

  /**
   * GPA of the message slot of a SINT that may take messages; undefined if the processor does not exist,
   * its SynIC is off, the SINT is masked, or there is no message page.
   */
  messageSlot(vp: number, sint: number): number | undefined {
    if (vp >= this.#state.vpCount || sint >= SINT_COUNT) return undefined;
    if ((this.#state.sint(vp, sint) & MASKED) !== 0 || !this.#isOn(vp)) return undefined;
    const simp = this.#low(vp, VpRegister.simp);
    return (simp & ENABLED) === 0 ? undefined : ((simp & PAGE) >>> 0) + sint * MessageSlot.SIZE;
  }

  /** Interrupts the processor, unless it polls this SINT. */
  raise(vp: number, sint: number): void {
    this.#interrupt(vp, sint, this.#state.sint(vp, sint));
  }

  /** True if interrupts of this SINT end by themselves, without an EOI of the guest. */
  isAutoEoi(vp: number, sint: number): boolean {
    return (this.#state.sint(vp, sint) & AUTO_EOI) !== 0;
  }

  #interrupt(vp: number, sint: number, register: number): void {
    if ((register & (POLLING | MASKED)) === 0) this.#bells.interrupt(vp, sint, register & VECTOR);
  }

  #isOn(vp: number): boolean {
    return (this.#low(vp, VpRegister.scontrol) & ENABLED) !== 0;
  }

  #low(vp: number, register: number): number {
    return Atomics.load(this.#state.words, this.#state.vpRegister(vp, register));
  }

  #area(vp: number, sint: number, siefp: number): EventFlags {
    const index = vp * SINT_COUNT + sint;
    const known = this.#areas[index];
    if (known?.siefp === siefp) return known.flags;
    const { areaBytes } = EventFlagsPage;
    const address = ((siefp & PAGE) >>> 0) + sint * areaBytes;
    const flags = this.#makeEventFlags(this.#memory, address, areaBytes);
    this.#areas[index] = { siefp, flags };
    return flags;
  }
}
