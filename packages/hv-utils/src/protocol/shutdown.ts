import { bytes, record, u32, type RecordOf } from "@hyperv-is/vmbus-core/protocol";
import { parsePrefix } from "./prefix.js";

/** What is asked for: bits of `flags`. Without restart and hibernate the machine is to be powered off. */
export const ShutdownFlag = {
  /** Even if applications object. */
  force: 1 << 0,
  restart: 1 << 1,
  hibernate: 1 << 2,
} as const;

/** `reason` of OpenVMM: a planned shutdown. */
export const SHUTDOWN_REASON_PLANNED = 0x8000_0000;

/** Body of a shutdown request. An answer has none; guests that echo send this one back. */
export const Shutdown = record({
  reason: u32(0),
  /** Seconds; guests do not look at it. */
  timeoutSeconds: u32(4),
  /** `ShutdownFlag` bits. */
  flags: u32(8),
  /** UTF-16LE, ended by NUL: shown to the guest's users. OpenVMM sends zeros. */
  message: bytes(12, 2048),
});
export type Shutdown = RecordOf<typeof Shutdown.fields>;

/** A shutdown request of which the flags must be there, as in FreeBSD; Linux wants all of it. Undefined without them. */
export function parseShutdown(body: Uint8Array): Shutdown | undefined {
  return parsePrefix(Shutdown, body, 12);
}

/** The text of `message` up to its NUL, control characters and lone surrogates replaced by U+FFFD. */
export function shutdownText(message: Uint8Array): string {
  let text = "";
  for (let at = 0; at + 1 < message.byteLength; at += 2) {
    const unit = message[at]! | (message[at + 1]! << 8);
    if (unit === 0) break;
    text += String.fromCharCode(unit);
  }
  return text.replaceAll(/[\p{Cc}\p{Cs}]/gu, "\ufffd");
}

/** Most UTF-16 units of a message, the NUL apart. */
export const SHUTDOWN_MESSAGE_MAX = 1023;

/** `text` as UTF-16LE; throws a RangeError if it has more than `SHUTDOWN_MESSAGE_MAX` units. */
export function emitShutdownText(text: string): Uint8Array<ArrayBuffer> {
  if (text.length > SHUTDOWN_MESSAGE_MAX)
    throw new RangeError(`a message of ${text.length} units is too long`);
  const target = new Uint8Array(2 * text.length);
  for (let at = 0; at < text.length; at++) {
    target[2 * at] = text.charCodeAt(at);
    target[2 * at + 1] = text.charCodeAt(at) >>> 8;
  }
  return target;
}
