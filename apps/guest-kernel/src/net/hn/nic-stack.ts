/** Whose the frames of an interface are: the guest's own stack's, or a TAP's, so that Linux is the guest's stack. Plain data. */
export type NicStack =
  | { readonly kind: "builtin" }
  | {
      readonly kind: "tap";
      /** Of the TAP. */
      readonly name: string;
      /** Network namespace that it is in; that of the program unless told. */
      readonly namespace?: string;
    };
