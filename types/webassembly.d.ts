/** The part of WebAssembly that the workspace needs; the DOM library is deliberately absent. */
declare namespace WebAssembly {
  interface MemoryDescriptor {
    /** Pages of 64 KiB. */
    initial: number;
    maximum?: number;
    shared?: boolean;
  }
  class Memory {
    constructor(descriptor: MemoryDescriptor);
    readonly buffer: ArrayBuffer | SharedArrayBuffer;
  }
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
  const Module: {
    new (bytes: Uint8Array): Module;
    imports(module: Module): readonly ImportDescriptor[];
  };
  class Instance {
    constructor(module: Module, imports: Imports);
    readonly exports: Exports;
  }
  function validate(bytes: Uint8Array): boolean;
}
