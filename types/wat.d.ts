/** WebAssembly text, as what it assembles to; see tools/wat.ts. */
declare module "*.wat" {
  const module: Uint8Array<ArrayBuffer>;
  export default module;
}
