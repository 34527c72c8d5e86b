import {
  JSONRPCServer,
  createJSONRPCErrorResponse,
  isJSONRPCID,
  type JSONRPCErrorResponse,
  type JSONRPCID,
  type JSONRPCRequest,
  type JSONRPCResponse,
} from "json-rpc-2.0";
import { parseRecord, type FieldRule } from "../field-rules.js";
import { GuestError } from "../integration/guest-error.js";
import { ControlError, controlErrorNumbers, isControlAnswerCode } from "./control-error.js";
import { controlMethods, type ControlMethod, type ControlledMachine } from "./control-methods.js";

/** Requests that may be in one batch: what they return is kept until all of it is there. */
const BATCH_LIMIT = 16;

const utf8 = new TextDecoder("utf-8", { fatal: true });

/** Answers the requests of a machine's clients, which may say whatever they like. */
export class ControlDispatcher {
  readonly #rpc = new JSONRPCServer({ errorListener: () => undefined });

  constructor(machine: ControlledMachine) {
    const methods: Readonly<Record<string, ControlMethod<object, unknown>>> = controlMethods;
    for (const [name, method] of Object.entries(methods)) {
      const rules: Readonly<Record<string, FieldRule>> = { ...method.params };
      this.#rpc.addMethod(name, (params: unknown) =>
        method.run(machine, parseParams(params, rules)),
      );
    }
    const names = Object.keys(methods).join(", ");
    this.#rpc.handleMethodNotFound = ({ method }) =>
      Promise.reject(
        new ControlError("ERR_CONTROL_METHOD", `there is no method '${method}', but ${names}`),
      );
    this.#rpc.mapErrorToJSONRPCErrorResponse = errorResponse;
  }

  /**
   * Answers a line.
   *
   * @returns A line without its end; undefined if there is nothing to answer.
   */
  async answer(line: Uint8Array): Promise<string | undefined> {
    let message: unknown;
    try {
      const text = utf8.decode(line);
      if (text.trim() === "") return undefined;
      message = JSON.parse(text);
    } catch (error) {
      return refusal("ERR_CONTROL_PARSE", `the line is no JSON: ${(error as Error).message}`);
    }
    const answer = Array.isArray(message)
      ? await this.#answerBatch(message)
      : await this.#answerOne(message);
    return answer === undefined ? undefined : JSON.stringify(answer);
  }

  async #answerBatch(
    requests: readonly unknown[],
  ): Promise<JSONRPCResponse | JSONRPCResponse[] | undefined> {
    if (requests.length === 0 || requests.length > BATCH_LIMIT) {
      const detail = `a batch has 1 to ${BATCH_LIMIT} requests, not ${requests.length}`;
      return errorResponse(null, new ControlError("ERR_CONTROL_REQUEST", detail));
    }
    const answers = await Promise.all(requests.map((request) => this.#answerOne(request)));
    const answered = answers.filter((answer) => answer !== undefined);
    return answered.length === 0 ? undefined : answered;
  }

  async #answerOne(value: unknown): Promise<JSONRPCResponse | undefined> {
    const request = parseRequest(value);
    if (!(request instanceof ControlError)) return (await this.#rpc.receive(request)) ?? undefined;
    const { id } = (value ?? {}) as { readonly id?: unknown };
    return errorResponse(isJSONRPCID(id) ? id : null, request);
  }
}

/** The line that refuses what is not even a request. */
export function refusal(
  code: "ERR_CONTROL_PARSE" | "ERR_CONTROL_REQUEST" | "ERR_CONTROL_CLIENTS",
  message: string,
): string {
  return JSON.stringify(errorResponse(null, new ControlError(code, message)));
}

/** A request by the rules of JSON-RPC 2.0, or what is wrong with it. */
function parseRequest(value: unknown): JSONRPCRequest | ControlError {
  const wrong = (detail: string): ControlError => new ControlError("ERR_CONTROL_REQUEST", detail);
  if (typeof value !== "object" || value === null) return wrong("a request is an object");
  const request = value as Readonly<Record<string, unknown>>;
  const { jsonrpc, method, params = {}, id = null } = request;
  if (jsonrpc !== "2.0") return wrong('jsonrpc: must be "2.0"');
  if (typeof method !== "string") return wrong("method: must be a text");
  if (typeof params !== "object" || params === null) return wrong("params: must be an object");
  if (!isJSONRPCID(id)) return wrong("id: must be a text, a number or null");
  if ("result" in request || "error" in request)
    return wrong("a request has no result and no error");
  return { jsonrpc, method, params, ...("id" in request && { id }) };
}

function parseParams(value: unknown, rules: Readonly<Record<string, FieldRule>>): object {
  const problems: string[] = [];
  const params = parseRecord("params", value, rules, problems);
  if (params === undefined || problems.length > 0)
    throw new ControlError("ERR_CONTROL_PARAMS", problems.join("; "));
  return params;
}

function errorResponse(id: JSONRPCID, error: unknown): JSONRPCErrorResponse {
  const isKnown = error instanceof ControlError || error instanceof GuestError;
  const own = isKnown ? error.code : undefined;
  const code = isControlAnswerCode(own) ? own : "ERR_CONTROL_INTERNAL";
  const message = error instanceof Error ? error.message : String(error);
  return createJSONRPCErrorResponse(id, controlErrorNumbers[code], message, { code });
}
