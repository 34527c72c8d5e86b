import {
  DataDirection,
  StorageClassId,
  parseScsiReply,
  parseScsiRequest,
} from "@hyperv-is/hv-storvsc/protocol";
import { DeviceClass, type Guid } from "@hyperv-is/vmbus-core/protocol";

/** Which way the data of a request goes, as the protocol of its device tells: bytes, `Infinity` for all. */
export interface DataFlow {
  /** Bytes that a request brings to the host. @param payload - of its packet. */
  toHost(payload: Uint8Array): number;
  /** Bytes that its completion brings to the guest. @param reply - payload of the completion. */
  toGuest(payload: Uint8Array, reply: Uint8Array): number;
}

const eitherWay: DataFlow = { toHost: () => Infinity, toGuest: () => Infinity };

const storage: DataFlow = {
  toHost(payload) {
    const request = parseScsiRequest(payload);
    return request?.dataIn === DataDirection.toDevice ? request.dataTransferLength : 0;
  },
  toGuest(payload, reply) {
    if (parseScsiRequest(payload)?.dataIn === DataDirection.toDevice) return 0;
    return parseScsiReply(reply)?.dataTransferLength ?? 0;
  },
};

/** Completions bring nothing: what the guest gets is in packets of its own. */
const network: DataFlow = { toHost: () => Infinity, toGuest: () => 0 };

const flows: ReadonlyMap<Guid, DataFlow> = new Map<Guid, DataFlow>([
  ...Object.values(StorageClassId).map((classId) => [classId, storage] as const),
  [DeviceClass.network.classId, network],
]);

/** The flow of a class's requests. */
export function dataFlowOf(classId: Guid): DataFlow {
  return flows.get(classId) ?? eitherWay;
}
