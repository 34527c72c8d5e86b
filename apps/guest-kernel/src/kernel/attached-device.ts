/** A device with the driver that serves it, as the rest of the kernel has it. */
export interface AttachedDevice {
  /** Where `Kernel.inspect` lists it. */
  readonly kind: "controller" | "interface" | "component";
  /** Makes it known. Rejects if it goes away meanwhile. */
  begin(): Promise<void>;
  /** Forgets it: it is gone. */
  forget(): void;
  /** Takes it out of use in good order. Never rejects. */
  detach(): Promise<void>;
  /** State and counters, as plain JSON. */
  inspect(): Promise<Record<string, unknown>>;
}
