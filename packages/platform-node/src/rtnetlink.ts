import type { LibC } from "./libc.js";

const AF_NETLINK = 16;
const SOCK_RAW_CLOEXEC = 3 | 0o2_000_000;
const RTM_NEWLINK = 16;
const NLMSG_ERROR = 2;
const NLM_F_REQUEST = 1;
const NLM_F_ACK = 4;
const IFLA_GSO_MAX_SIZE = 41;
const EPROTO = 71;

/** Message: a header of 16 bytes, a `struct ifinfomsg` of 16, an attribute of 8 (linux/rtnetlink.h). */
const MESSAGE_BYTES = 40;
/** Where the error is in the answer: 0 if there was none, else a negative number. */
const ERROR_AT = 16;

/**
 * Limits the frames that the kernel makes for an interface of this thread's network namespace, where their segmentation
 * is offloaded. @returns 0, or the error.
 */
export function setGsoMaxSize(system: LibC, interfaceIndex: number, maxBytes: number): number {
  const message = new Uint8Array(MESSAGE_BYTES);
  const view = new DataView(message.buffer);
  view.setUint32(0, MESSAGE_BYTES, true);
  view.setUint16(4, RTM_NEWLINK, true);
  view.setUint16(6, NLM_F_REQUEST | NLM_F_ACK, true);
  view.setUint32(8, 1, true);
  view.setInt32(20, interfaceIndex, true);
  view.setUint16(32, 8, true);
  view.setUint16(34, IFLA_GSO_MAX_SIZE, true);
  view.setUint32(36, maxBytes, true);
  const socket = system.socket(AF_NETLINK, SOCK_RAW_CLOEXEC, 0);
  if (socket < 0) return system.errno();
  try {
    if (system.send(socket, message, MESSAGE_BYTES, 0) < 0) return system.errno();
    const answer = new Uint8Array(256);
    const answerBytes = system.recv(socket, answer, answer.byteLength, 0);
    if (answerBytes < 0) return system.errno();
    const answered = new DataView(answer.buffer);
    if (answerBytes < ERROR_AT + 4 || answered.getUint16(4, true) !== NLMSG_ERROR) return EPROTO;
    return -answered.getInt32(ERROR_AT, true);
  } finally {
    system.close(socket);
  }
}
