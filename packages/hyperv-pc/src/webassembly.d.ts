/** The part of WebAssembly that running the emulator's module needs, beside what the workspace declares. */
declare namespace WebAssembly {
  type ImportValue = ((...args: never[]) => unknown) | object | number;
  type ModuleImports = Record<string, ImportValue>;
  type Imports = Record<string, ModuleImports>;
  type ExportValue = ((...args: never[]) => unknown) | object | number;
  type Exports = Record<string, ExportValue>;
  interface ImportDescriptor {
    readonly module: string;
    readonly name: string;
    readonly kind: "function" | "table" | "memory" | "global";
  }
  interface Module {
    /** Only a compiled module is one. */
    readonly [Symbol.toStringTag]: "WebAssembly.Module";
  }
  const Module: { imports(module: Module): readonly ImportDescriptor[] };
  type Table = object;
  const Table: new (descriptor: { readonly element: "anyfunc"; readonly initial: number }) => Table;
  class Instance {
    readonly exports: Exports;
  }
  function instantiate(module: Module, imports: Imports): Promise<Instance>;
  function compile(bytes: Uint8Array): Promise<Module>;
}
