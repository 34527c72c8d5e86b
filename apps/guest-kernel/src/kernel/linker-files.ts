/** A file that the kernel linker has loaded: the kernel itself, or a module. */
export interface LinkerFile {
  readonly id: number;
  readonly name: string;
  readonly path: string;
  /** Where it would lie; made up, but stable, as our modules have no address. */
  readonly address: bigint;
  readonly sizeBytes: number;
  readonly refs: number;
  /** Modules that it contains, with their ids. */
  readonly modules: readonly { readonly id: number; readonly name: string }[];
}

/** What `kldstat` lists. A driver that is compiled in is a module of the file `kernel`. */
export class LinkerFiles {
  readonly #files: LinkerFile[] = [];
  #nextModule = 1;
  #nextAddress = 0xffffffff80200000n;

  /** Lists a loaded file with the modules in it. */
  add(path: string, sizeBytes: number, modules: readonly string[]): LinkerFile {
    const file: LinkerFile = {
      id: this.#files.length + 1,
      name: path.slice(path.lastIndexOf("/") + 1),
      path,
      address: this.#nextAddress,
      sizeBytes,
      refs: 1,
      modules: modules.map((name) => ({ id: this.#nextModule++, name })),
    };
    this.#files.push(file);
    this.#nextAddress += (BigInt(sizeBytes) + 0xffffn) & ~0xfffn;
    return file;
  }

  /** The kernel is referred to by every other file. */
  list(): readonly LinkerFile[] {
    return this.#files.map((file) =>
      file.id === 1 ? { ...file, refs: this.#files.length } : file,
    );
  }

  /** A file by `hv_storvsc`, `hv_storvsc.ko` or its path. */
  find(name: string): LinkerFile | undefined {
    return this.list().find(
      (file) => file.name === name || file.name === `${name}.ko` || file.path === name,
    );
  }
}
