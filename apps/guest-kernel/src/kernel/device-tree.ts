/** A device, attached or not, at its place below another. */
export class Device {
  /** Driver name, for example `storvsc`; undefined while no driver wants it. */
  readonly driver: string | undefined;
  readonly unit: number;
  /** What the driver says of it, without brackets. */
  readonly description: string;
  /** `classid=... deviceid=...` for a VMBus device, else empty. */
  readonly pnpInfo: string;
  readonly parent: Device | undefined;
  readonly #children: Device[] = [];

  constructor(
    place: { driver?: string; unit?: number; description?: string; pnpInfo?: string },
    parent?: Device,
  ) {
    this.driver = place.driver;
    this.unit = place.unit ?? -1;
    this.description = place.description ?? "";
    this.pnpInfo = place.pnpInfo ?? "";
    this.parent = parent;
    if (parent !== undefined) parent.#children.push(this);
  }

  /** `storvsc0`, or `unknown` without a driver. */
  get name(): string {
    return this.driver === undefined ? "unknown" : `${this.driver}${this.unit}`;
  }

  get children(): readonly Device[] {
    return this.#children;
  }

  /** Takes the device out of its parent. */
  detach(): void {
    if (this.parent === undefined) return;
    const siblings = this.parent.#children;
    siblings.splice(siblings.indexOf(this), 1);
  }
}
