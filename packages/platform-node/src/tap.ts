import { closeSync, constants, openSync, writeSync } from "node:fs";
import { PlatformError } from "./errors.js";
import { libc, type LibC } from "./libc.js";
import { setGsoMaxSize } from "./rtnetlink.js";

/** Requests of ioctl, as on x64 and arm64 (linux/if_tun.h, linux/sockios.h). */
const Request = {
  tunSetIff: 0x4004_54ca,
  tunSetOffload: 0x4004_54d0,
  tunSetVnetHeaderSize: 0x4004_54d8,
  tunSetCarrier: 0x4004_54e2,
  getFlags: 0x8913,
  setFlags: 0x8914,
  getMtu: 0x8921,
  setMtu: 0x8922,
  setMac: 0x8924,
  getMac: 0x8927,
  getIndex: 0x8933,
} as const;

/** Flags of TUNSETIFF. */
const TunFlag = { tap: 0x2, multiQueue: 0x100, noPacketInfo: 0x1000, vnetHeader: 0x4000 } as const;

/** What the reader of a TAP takes, bits of TUNSETOFFLOAD: the kernel sends nothing else. */
export const TapOffload = {
  /** Frames whose TCP or UDP checksum is still to be computed. */
  checksum: 1,
  /** Frames of TCP that are still to be segmented; they need `checksum`. */
  tso4: 2,
  tso6: 4,
  tsoEcn: 8,
} as const;

/** A `struct virtio_net_hdr`, which is in front of each frame: byte offsets; numbers are of the machine's byte order. */
export const VnetHeader = {
  flags: 0, // u8, bits of `VnetFlag`
  gsoType: 1, // u8, a `VnetGso`
  headerLength: 2, // u16
  gsoSize: 4, // u16, bytes of payload in a segment
  checksumStart: 6, // u16, from the start of the frame
  checksumOffset: 8, // u16, from `checksumStart`
  /** Without the count of buffers of VIRTIO_NET_F_MRG_RXBUF. */
  SIZE: 10,
  SIZE_MAX: 12,
} as const;

export const VnetFlag = { needsChecksum: 1, dataValid: 2 } as const;
export const VnetGso = { none: 0, tcp4: 1, udp: 3, tcp6: 4, udpL4: 5, ecn: 0x80 } as const;

export interface TapOptions {
  /** At most 15 bytes; with `%d` the kernel chooses a number. */
  readonly name: string;
  /** A namespace as `ip netns` names it; that of this thread unless told. */
  readonly netns?: string;
  /** Queues, each with a file of its own: 1 unless told, to 256. */
  readonly queues?: number;
  /** Bits of `TapOffload`; none unless told. */
  readonly offload?: number;
  /** Size of the header in front of each frame, 10 or 12; 10 unless told. */
  readonly vnetHeaderBytes?: number;
  readonly mtu?: number;
  /** 6 bytes; the kernel chooses one unless told. */
  readonly macAddress?: Uint8Array;
  /** Longest frame that the kernel's own TCP makes for it, where segmentation is offloaded; the kernel's own limit unless told. */
  readonly gsoMaxBytes?: number;
}

/** What another thread needs to use a queue of a TAP; plain data. */
export interface TapQueueDescription {
  readonly fd: number;
  /** Can be read when the threads at the queues are to end. */
  readonly stopFd: number;
  readonly vnetHeaderBytes: number;
}

const QUEUES_MAX = 256;
const NAME_BYTES = 16;
/** Bytes of a `struct ifreq`: a name, and something of 24 bytes. */
const IFREQ_BYTES = 40;
const AF_INET = 2;
const SOCK_DGRAM = 2;
const CLONE_NEWNET = 0x4000_0000;
const EFD_CLOEXEC = 0o2_000_000;
const EFD_NONBLOCK = 0o4_000;
const IFF_UP = 1;
const ARPHRD_ETHER = 1;

/** A TAP device: an Ethernet interface of the kernel whose other end are the queues here. It is gone when it is closed. */
export class Tap {
  readonly name: string;
  readonly queues: readonly TapQueueDescription[];
  readonly #libc: LibC;
  /** Asks the namespace of the interface. */
  readonly #control: number;
  readonly #stopFd: number;
  #closed = false;

  private constructor(name: string, files: TapFiles, vnetHeaderBytes: number) {
    this.name = name;
    this.#libc = libc();
    this.#control = files.control;
    this.#stopFd = files.stopFd;
    this.queues = files.queues.map((fd) => ({ fd, stopFd: files.stopFd, vnetHeaderBytes }));
  }

  /**
   * Makes a TAP device, which is down. Needs the rights of root, or CAP_NET_ADMIN, and the package koffi.
   *
   * Throws `PlatformError`, with what to do: `ERR_TAP_UNSUPPORTED` elsewhere than on Linux, `ERR_KOFFI_MISSING`,
   * `ERR_TAP_DEVICE` where there is no /dev/net/tun, `ERR_TAP_PERMISSION`, `ERR_NETNS` for a namespace that is not
   * there, and `ERR_TAP` for what the kernel refuses.
   */
  static open(options: TapOptions): Tap {
    const { netns, vnetHeaderBytes = VnetHeader.SIZE } = options;
    check(options);
    const system = libc();
    return within(system, netns, () => {
      const files = new TapFiles(system);
      try {
        const name = files.open(options, vnetHeaderBytes);
        const tap = new Tap(name, files, vnetHeaderBytes);
        tap.#configure(options);
        return tap;
      } catch (error) {
        files.close();
        throw error;
      }
    });
  }

  /** Largest packet behind the Ethernet header. */
  get mtu(): number {
    const request = this.#ifreq();
    this.#ioctl(Request.getMtu, request, "its MTU");
    return new DataView(request.buffer).getInt32(NAME_BYTES, true);
  }

  /** Throws `ERR_TAP` if the kernel does not want it. */
  set mtu(mtu: number) {
    const request = this.#ifreq();
    new DataView(request.buffer).setInt32(NAME_BYTES, mtu, true);
    this.#ioctl(Request.setMtu, request, `an MTU of ${mtu}`);
  }

  /** Of the kernel's end; 6 bytes. */
  get macAddress(): Uint8Array {
    const request = this.#ifreq();
    this.#ioctl(Request.getMac, request, "its MAC address");
    return request.slice(NAME_BYTES + 2, NAME_BYTES + 8);
  }

  set macAddress(mac: Uint8Array) {
    const request = this.#ifreq();
    new DataView(request.buffer).setUint16(NAME_BYTES, ARPHRD_ETHER, true);
    request.set(mac, NAME_BYTES + 2);
    this.#ioctl(Request.setMac, request, "the MAC address");
  }

  get isUp(): boolean {
    return (this.#flags() & IFF_UP) !== 0;
  }

  set isUp(up: boolean) {
    const flags = this.#flags();
    const request = this.#ifreq();
    new DataView(request.buffer).setUint16(NAME_BYTES, up ? flags | IFF_UP : flags & ~IFF_UP, true);
    this.#ioctl(Request.setFlags, request, up ? "to be up" : "to be down");
  }

  /** Pulls the cable out, or plugs it in again. A new TAP has one. */
  setCarrier(carrier: boolean): void {
    const value = new Uint8Array(4);
    value[0] = carrier ? 1 : 0;
    if (this.#libc.ioctl(this.queues[0]!.fd, Request.tunSetCarrier, value) < 0)
      throw refused(this.#libc, this.name, "a carrier");
  }

  /** Ends the waits of all threads at the queues, now and later. */
  stop(): void {
    if (!this.#closed) writeSync(this.#stopFd, new Uint8Array(new BigUint64Array([1n]).buffer));
  }

  /** Removes the interface. No thread may be at the queues any more. Idempotent. */
  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    for (const { fd } of this.queues) closeSync(fd);
    this.#libc.close(this.#control);
    this.#libc.close(this.#stopFd);
  }

  #configure({ mtu, macAddress, gsoMaxBytes }: TapOptions): void {
    if (macAddress !== undefined) this.macAddress = macAddress;
    if (mtu !== undefined) this.mtu = mtu;
    if (gsoMaxBytes === undefined) return;
    const request = this.#ifreq();
    this.#ioctl(Request.getIndex, request, "its index");
    const index = new DataView(request.buffer).getInt32(NAME_BYTES, true);
    const errno = setGsoMaxSize(this.#libc, index, gsoMaxBytes);
    if (errno !== 0) throw refused(this.#libc, this.name, `frames of ${gsoMaxBytes} bytes`, errno);
  }

  #flags(): number {
    const request = this.#ifreq();
    this.#ioctl(Request.getFlags, request, "its flags");
    return new DataView(request.buffer).getUint16(NAME_BYTES, true);
  }

  #ifreq(): Uint8Array<ArrayBuffer> {
    return ifreq(this.name);
  }

  #ioctl(request: number, argument: Uint8Array, what: string): void {
    if (this.#libc.ioctl(this.#control, request, argument) < 0)
      throw refused(this.#libc, this.name, what);
  }
}

/** The files of a TAP in the making. */
class TapFiles {
  readonly queues: number[] = [];
  control = -1;
  stopFd = -1;
  readonly #libc: LibC;

  constructor(system: LibC) {
    this.#libc = system;
  }

  /** @returns The name that the interface got. */
  open({ name, queues = 1, offload = 0 }: TapOptions, vnetHeaderBytes: number): string {
    const system = this.#libc;
    this.control = opened(system, system.socket(AF_INET, SOCK_DGRAM, 0), name);
    this.stopFd = opened(system, system.eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK), name);
    let given = name;
    for (let queue = 0; queue < queues; queue++) {
      const fd = openTun();
      this.queues.push(fd);
      const request = ifreq(given);
      const multiQueue = queues > 1 ? TunFlag.multiQueue : 0;
      new DataView(request.buffer).setUint16(
        NAME_BYTES,
        TunFlag.tap | TunFlag.noPacketInfo | TunFlag.vnetHeader | multiQueue,
        true,
      );
      if (system.ioctl(fd, Request.tunSetIff, request) < 0)
        throw refused(system, given, "to be made");
      given = new TextDecoder().decode(request.subarray(0, request.indexOf(0)));
      const size = new Uint8Array(4);
      size[0] = vnetHeaderBytes;
      if (system.ioctl(fd, Request.tunSetVnetHeaderSize, size) < 0)
        throw refused(system, given, `a header of ${vnetHeaderBytes} bytes`);
      if (system.ioctlNumber(fd, Request.tunSetOffload, offload) < 0)
        throw refused(system, given, `offload ${offload}`);
    }
    return given;
  }

  close(): void {
    for (const fd of this.queues) closeSync(fd);
    for (const fd of [this.control, this.stopFd]) if (fd >= 0) this.#libc.close(fd);
  }
}

function check({ name, queues = 1, vnetHeaderBytes = VnetHeader.SIZE }: TapOptions): void {
  const bytes = new TextEncoder().encode(name).byteLength;
  if (bytes === 0 || bytes >= NAME_BYTES || /[/\s:]/.test(name))
    throw new PlatformError("ERR_TAP", `${name}: not a name for an interface (1 to 15 bytes)`);
  if (!Number.isInteger(queues) || queues < 1 || queues > QUEUES_MAX)
    throw new PlatformError("ERR_TAP", `${name}: 1 to ${QUEUES_MAX} queues, not ${queues}`);
  if (vnetHeaderBytes !== VnetHeader.SIZE && vnetHeaderBytes !== VnetHeader.SIZE_MAX)
    throw new PlatformError("ERR_TAP", `${name}: a header has 10 or 12 bytes`);
}

function ifreq(name: string): Uint8Array<ArrayBuffer> {
  const request = new Uint8Array(IFREQ_BYTES);
  request.set(new TextEncoder().encode(name));
  return request;
}

function openTun(): number {
  try {
    return openSync("/dev/net/tun", constants.O_RDWR | constants.O_NONBLOCK);
  } catch (cause) {
    const { code } = cause as NodeJS.ErrnoException;
    if (code === "EACCES" || code === "EPERM") throw permission("/dev/net/tun", cause);
    throw new PlatformError(
      "ERR_TAP_DEVICE",
      `/dev/net/tun cannot be opened (${code ?? "?"}): modprobe tun, or in a container give it the device, as docker run --device /dev/net/tun does`,
      { cause },
    );
  }
}

function opened(system: LibC, fd: number, name: string): number {
  if (fd < 0) throw refused(system, name, "a file");
  return fd;
}

function permission(what: string, cause?: unknown): PlatformError {
  return new PlatformError(
    "ERR_TAP_PERMISSION",
    `${what}: not permitted; a TAP device needs root or CAP_NET_ADMIN: sudo, or setcap cap_net_admin+ep on node`,
    { cause },
  );
}

function refused(system: LibC, name: string, what: string, errno = system.errno()): PlatformError {
  const code = system.errorName(errno);
  if (code === "EPERM" || code === "EACCES") return permission(name);
  const why = code === "EBUSY" ? "is in use already" : `cannot have ${what}`;
  return new PlatformError("ERR_TAP", `${name}: ${why} (${code})`);
}

/**
 * Runs `work` with this thread in a network namespace. What it opens there stays there; nothing else of the program
 * runs meanwhile, since it does not wait for anything.
 */
function within<Result>(system: LibC, netns: string | undefined, work: () => Result): Result {
  if (netns === undefined) return work();
  const home = openSync("/proc/thread-self/ns/net", constants.O_RDONLY);
  try {
    enter(system, netns);
    let hasLeft = false;
    let result: Result;
    try {
      result = work();
    } finally {
      hasLeft = system.setns(home, CLONE_NEWNET) === 0;
    }
    if (!hasLeft)
      throw new PlatformError(
        "ERR_NETNS",
        `this thread cannot leave the network namespace ${netns}`,
      );
    return result;
  } finally {
    closeSync(home);
  }
}

function enter(system: LibC, netns: string): void {
  let there: number;
  try {
    if (netns === "" || netns.includes("/")) throw new Error("not the name of a namespace");
    there = openSync(`/run/netns/${netns}`, constants.O_RDONLY);
  } catch (cause) {
    throw new PlatformError(
      "ERR_NETNS",
      `there is no network namespace ${netns}: ip netns add ${netns}`,
      { cause },
    );
  }
  try {
    if (system.setns(there, CLONE_NEWNET) === 0) return;
    const code = system.errorName(system.errno());
    if (code === "EPERM") throw permission(`network namespace ${netns}`);
    throw new PlatformError("ERR_NETNS", `network namespace ${netns}: cannot be entered (${code})`);
  } finally {
    closeSync(there);
  }
}
