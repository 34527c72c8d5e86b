import { IcStatus } from "@hyperv-is/hv-utils/protocol";
import { serveDevice } from "../src/node/index.js";
import * as protocol from "../src/protocol/index.js";
import { Prng } from "./prng.js";
import { ReferenceClient } from "./reference-client.js";
import { Rig } from "./rig.js";

/** What to exchange. */
export interface DeviceCampaign {
  /** Of the socket that is made. */
  readonly path: string;
  readonly dialect: protocol.DeviceDialect;
  readonly seed: number;
  readonly messages: number;
  /** Ends earlier. */
  readonly isOver?: () => boolean;
}

/**
 * A host that sets, gets, deletes and enumerates at random, the driver, its device node, and the reference's client
 * there; every answer is compared with a model. @returns How many messages were exchanged.
 */
export async function runDeviceCampaign(campaign: DeviceCampaign): Promise<number> {
  const { path, dialect, seed, messages, isOver = () => false } = campaign;
  const prng = new Prng(seed);
  const rig = new Rig({ dialect });
  const served = await serveDevice(path, rig.service.device);
  const client = await ReferenceClient.connect(path, dialect.name === "linux");
  try {
    rig.negotiate(4);
    const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));
    while (rig.chosen() === undefined) await turn();
    const model: [key: string, value: string][] = [];
    let count = 0;
    while (count < messages && !isOver()) {
      const key = `key-${prng.below(20)}`;
      const at = model.findIndex(([known]) => known === key);
      const request = pick(prng, key, model.length);
      rig.request(protocol.emitKvpRequest(request, "text"));
      while (rig.received.length === 0) {
        await turn();
        rig.run();
      }
      const { status, body } = rig.take()!;
      const item = status === IcStatus.ok ? protocol.parseItemAnswer(body) : undefined;
      const expected = expectedOf(model, request, at);
      const seen = JSON.stringify(item === undefined ? [status] : [status, item.key, item.value]);
      if (seen !== JSON.stringify(expected))
        throw new Error(`message ${count}: ${seen}, not ${JSON.stringify(expected)}, seed ${seed}`);
      count++;
    }
    if (client.answered !== count) throw new Error(`the client answered ${client.answered}`);
    return count;
  } finally {
    client.close();
    served.close();
  }
}

function pick(prng: Prng, key: string, length: number): protocol.KvpRequest {
  const { get, set, enumerate } = protocol.KvpOperation;
  switch (prng.below(4)) {
    case 0:
      return { operation: set, pool: 0, key, value: `välue ${prng.next()}` };
    case 1:
      return { operation: protocol.KvpOperation.delete, pool: 0, key };
    case 2:
      return { operation: get, pool: 0, key };
    default:
      return { operation: enumerate, pool: 0, index: prng.below(length + 2) };
  }
}

/** Status, key and value of the answer; the model is changed. */
function expectedOf(
  model: [key: string, value: string][],
  request: protocol.KvpRequest,
  at: number,
): [number, string?, string?] {
  const past: [number] = [IcStatus.noMoreItems];
  switch (request.operation) {
    case protocol.KvpOperation.set:
      if (at < 0) model.push([request.key, String(request.value)]);
      else model[at]![1] = String(request.value);
      return [IcStatus.ok];
    case protocol.KvpOperation.delete:
      if (at < 0) return past;
      model.splice(at, 1);
      return [IcStatus.ok];
    case protocol.KvpOperation.get:
      return at < 0 ? past : [IcStatus.ok, ...model[at]!];
    case protocol.KvpOperation.enumerate: {
      const found = model[request.index];
      return found === undefined ? past : [IcStatus.ok, ...found];
    }
    default:
      throw new Error("the campaign asks for no addresses");
  }
}
