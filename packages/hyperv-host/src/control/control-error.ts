import { VmbusError } from "@hyperv-is/vmbus-core";

/**
 * Stable codes of errors that a machine answers with, and the number that JSON-RPC has for each; -32000 and
 * below are ours.
 */
export const controlErrorNumbers = {
  /** The line is no JSON in UTF-8. */
  ERR_CONTROL_PARSE: -32700,
  /** It is no request, or a line or a batch is too long. */
  ERR_CONTROL_REQUEST: -32600,
  ERR_CONTROL_METHOD: -32601,
  ERR_CONTROL_PARAMS: -32602,
  /** The machine failed at it; not the client's fault. */
  ERR_CONTROL_INTERNAL: -32603,
  /** The client speaks a newer version of the protocol. */
  ERR_CONTROL_VERSION: -32000,
  /** The machine has as many clients as it takes. */
  ERR_CONTROL_CLIENTS: -32001,
  /** The machine has no such network adapter, or its capture cannot be made, or is there already. */
  ERR_CONTROL_CAPTURE: -32010,
  /** The guest does not have the integration component, or not yet. */
  ERR_GUEST_NOT_READY: -32002,
  ERR_GUEST_BUSY: -32003,
  ERR_GUEST_SILENT: -32004,
  ERR_GUEST_GONE: -32005,
  ERR_GUEST_REFUSED: -32006,
} as const;

/** Code of an error that a machine answers with. */
export type ControlAnswerCode = keyof typeof controlErrorNumbers;

/** Stable codes of what goes wrong with a control socket. */
export type ControlErrorCode =
  | ControlAnswerCode
  /** No name and no path of a control socket, or it cannot be there. */
  | "ERR_CONTROL_ADDRESS"
  /** Somebody listens there, or there is something else than a socket. */
  | "ERR_CONTROL_IN_USE"
  /** No machine listens there, or it has ended. */
  | "ERR_CONTROL_GONE"
  /** The machine does not answer. */
  | "ERR_CONTROL_SILENT"
  /** What answers is no machine. */
  | "ERR_CONTROL_ANSWER";

/** A control socket that cannot be made or reached, or a request that was refused. */
export class ControlError extends VmbusError<ControlErrorCode> {}

/** True for the code of an error that a machine may have answered with. */
export function isControlAnswerCode(code: unknown): code is ControlAnswerCode {
  return typeof code === "string" && Object.hasOwn(controlErrorNumbers, code);
}
