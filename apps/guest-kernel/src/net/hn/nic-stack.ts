import type { TapQueueDescription } from "@hyperv-is/platform-node";

/** Whose the frames of an interface are: the guest's own stack's, or a TAP's, so that Linux is the guest's stack. Plain data. */
export type NicStack =
  | { readonly kind: "builtin" }
  | {
      readonly kind: "tap";
      /** Of the TAP. */
      readonly name: string;
      /** Network namespace that it is in; that of the program unless told. */
      readonly netns?: string;
    };

/** The same of one channel, on its CPU. Plain data. */
export type PortStack =
  | { readonly kind: "builtin" }
  | {
      readonly kind: "tap";
      /** The channel's own queue of the TAP. */
      readonly queue: TapQueueDescription;
      /** Of the interface. */
      readonly mtu: number;
    };
