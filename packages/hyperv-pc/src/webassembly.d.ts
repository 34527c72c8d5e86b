/** The part of WebAssembly that running the emulator's module needs, beside what the workspace declares. */
declare namespace WebAssembly {
  type Table = object;
  const Table: new (descriptor: { readonly element: "anyfunc"; readonly initial: number }) => Table;
  function instantiate(module: Module, imports: Imports): Promise<Instance>;
  function compile(bytes: Uint8Array): Promise<Module>;
}
