export {
  icSession,
  icSessionStart,
  type IcRefusal,
  type IcRequest,
  type IcSessionEffect,
  type IcSessionInput,
  type IcSessionState,
  type IcSpeech,
} from "./ic-session.js";
export {
  IcChannel,
  type IcChannelDescription,
  type IcCounters,
  type IcService,
} from "./ic-channel.js";
export { IcComponent, type IcContext, type IcOptions } from "./ic-component.js";
