import { VirtualTimers } from "@hyperv-is/vmbus-core/testing";
import { FaultPlan, type Fault, type Guid } from "../src/index.js";
import type { Frame } from "../src/switch/frame.js";
import type { Port } from "../src/switch/port.js";
import {
  noOffloads,
  type PortEnd,
  type PortOffloads,
  type PortOptions,
} from "../src/switch/switch-port.js";
import { VirtualSwitch } from "../src/switch/virtual-switch.js";
import { bytesOf } from "./frame-model.js";

/** A frame as an end got it. */
export interface Arrived {
  readonly bytes: Uint8Array;
  readonly vlanTag: number;
  readonly segmentBytes: number;
  readonly checksumStart: number;
  readonly isChecksumValid: boolean;
  readonly invertsVerdict: boolean;
}

/** The end of a port that keeps what it gets. */
export class TestEnd implements PortEnd {
  offloads: PortOffloads = noOffloads;
  readonly frames: Arrived[] = [];
  readonly links: boolean[] = [];
  flushes = 0;
  hasRoom = true;

  deliver(frame: Frame): boolean {
    if (!this.hasRoom) return false;
    const { vlanTag, segmentBytes, checksumStart, isChecksumValid, invertsVerdict } = frame;
    this.frames.push({
      bytes: bytesOf(frame),
      vlanTag,
      segmentBytes,
      checksumStart,
      isChecksumValid,
      invertsVerdict,
    });
    return true;
  }

  flush(): void {
    this.flushes++;
  }

  linkChanged(isUp: boolean): void {
    this.links.push(isUp);
  }
}

export const allOffloads: PortOffloads = {
  partialChecksum: true,
  segmentation4: true,
  segmentation6: true,
  vlanTag: true,
};

/** The address that ends with this number, in the range of Hyper-V's dynamic ones. */
export const macOf = (number: number): Uint8Array =>
  Uint8Array.of(0x00, 0x15, 0x5d, 0x0a, 0x01, number);

export const all = new Uint8Array(6).fill(0xff);

/** A switch, and ports whose ends keep what they get. */
export class SwitchRig {
  readonly timers = new VirtualTimers();
  readonly switch: VirtualSwitch;
  readonly ends: TestEnd[] = [];
  readonly ports: Port[] = [];

  constructor(faults: readonly Fault[] = [], learnedMax?: number) {
    this.switch = new VirtualSwitch({
      timers: this.timers,
      faults: new FaultPlan({ faults }, this.timers),
      ...(learnedMax !== undefined && { learnedMax }),
    });
  }

  /** Adds a port; a guest's with the address of its number unless told. */
  port(options: Partial<PortOptions> = {}, instanceId?: Guid): number {
    const number = this.ports.length;
    const end = new TestEnd();
    const kind = options.kind ?? "guest";
    this.ends.push(end);
    this.ports.push(
      this.switch.connect(
        end,
        {
          name: `port${number}`,
          kind,
          ...(kind === "guest" && { mac: macOf(number) }),
          ...options,
        },
        { ...(instanceId !== undefined && { instanceId }) },
      ),
    );
    return number;
  }

  /** What each end has got since the last call, as numbers of frames. */
  take(): number[] {
    return this.ends.map(({ frames }) => frames.splice(0).length);
  }
}

/** A small frame of an experimental type. */
export function plainFrame(
  destination: Uint8Array,
  source: Uint8Array,
  tag?: number,
  lengthBytes = 60,
): Uint8Array {
  const bytes = new Uint8Array(lengthBytes);
  bytes.set(destination);
  bytes.set(source, 6);
  const type = [0x88, 0xb5];
  const tagged = tag === undefined ? type : [0x81, 0x00, tag >>> 8, tag & 0xff, ...type];
  bytes.set(tagged, 12);
  return bytes;
}
