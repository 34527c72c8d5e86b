export { TraceError, type TraceErrorCode } from "./trace-error.js";
export { MemorySink, type TraceSink } from "./trace-sink.js";
export { parseTraceChannels, type TraceChannels } from "./trace-channels.js";
export { TraceRecorder, type TraceRecorderOptions } from "./trace-recorder.js";
export {
  readTrace,
  type ChannelOpenedRecord,
  type PacketRecord,
  type Trace,
  type TraceDamage,
  type TraceData,
  type TraceRecord,
} from "./trace-reader.js";
export type { Decoded, DecodedFields, DecodedValue } from "./decode/decoded.js";
export { MessageDecoder, type ParsedMessage } from "./decode/message-decoder.js";
export { decodeIntegration } from "./decode/integration-decoder.js";
export { decodeNetwork } from "./decode/network-decoder.js";
export { decodeStorage } from "./decode/storage-decoder.js";
export { TraceDecoder, type DecodedRecord } from "./decode/trace-decoder.js";
export { traceLine } from "./decode/trace-text.js";
