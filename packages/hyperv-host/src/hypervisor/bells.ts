/**
 * How the hypervisor wakes who must look: handed in by the platform, called on whatever thread has
 * something to announce. A bell is a hint; ringing too often costs time, never correctness.
 */
export interface Bells {
  /**
   * A SINT of a virtual processor wants an interrupt. Whether it ends by itself is in
   * `SyntheticInterrupts.isAutoEoi`.
   */
  interrupt(vp: number, sint: number, vector: number): void;
  /** The host's control thread has posted messages, or free message slots, to look at. */
  control(): void;
  /** A host worker has event flags to look at. */
  worker(index: number): void;
}
