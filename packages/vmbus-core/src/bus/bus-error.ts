import { VmbusError } from "../errors.js";

/** Why an operation of the bus failed. */
export type BusErrorCode =
  /** The host accepts none of the versions that were tried. */
  | "ERR_VERSION"
  /** The host knows the version but could not connect; `status` is its connection state. */
  | "ERR_CONNECT_FAILED"
  /** The hypervisor does not take the message; `status` is that of the hypercall. */
  | "ERR_POST_FAILED"
  /** The host did not answer in time. */
  | "ERR_TIMEOUT"
  /** The host took the device away. */
  | "ERR_RESCINDED"
  /** The bus is not connected, or was unloaded meanwhile. */
  | "ERR_UNLOADED"
  /** The host refused to open the channel; `status` is its NTSTATUS. */
  | "ERR_OPEN_FAILED"
  /** The channel was closed while it was being opened. */
  | "ERR_CLOSED"
  /** The host refused to share memory; `status` is its NTSTATUS. */
  | "ERR_GPADL_REFUSED"
  /** The host refused to move the channel; `status` is its NTSTATUS. */
  | "ERR_MODIFY_FAILED"
  /** Another request of the same kind is under way. */
  | "ERR_BUSY"
  /** The protocol version has no such request. */
  | "ERR_UNSUPPORTED"
  /** The arena has no run of pages that is long enough. */
  | "ERR_NO_MEMORY";

const texts: Readonly<Record<BusErrorCode, string>> = {
  ERR_VERSION: "the host accepts none of the protocol versions",
  ERR_CONNECT_FAILED: "the host could not connect",
  ERR_POST_FAILED: "the hypervisor does not take the message",
  ERR_TIMEOUT: "the host did not answer in time",
  ERR_RESCINDED: "the host took the device away",
  ERR_UNLOADED: "the bus is not connected",
  ERR_OPEN_FAILED: "the host refused to open the channel",
  ERR_CLOSED: "the channel was closed meanwhile",
  ERR_GPADL_REFUSED: "the host refused to share memory",
  ERR_MODIFY_FAILED: "the host refused to move the channel",
  ERR_BUSY: "the previous request is not answered yet",
  ERR_UNSUPPORTED: "the protocol version has no such request",
  ERR_NO_MEMORY: "not enough contiguous guest memory",
};

/** A failed operation of the bus. */
export class BusError extends VmbusError<BusErrorCode> {
  /** What the host or the hypervisor said, see the code; undefined if it said nothing. */
  readonly status: number | undefined;

  /** @param what - The operation, for people: "opening channel 14". */
  constructor(code: BusErrorCode, what: string, status?: number) {
    const said = status === undefined ? "" : ` (0x${(status >>> 0).toString(16)})`;
    super(code, `${what}: ${texts[code]}${said}`);
    this.status = status;
  }
}
