import { readFile } from "node:fs/promises";
import { relative } from "node:path";
import { fileURLToPath } from "node:url";
import type { Options } from "tsup";

const root = fileURLToPath(new URL("..", import.meta.url));

/** The sections a module of ours has, by number: it keeps nothing, and loading it does nothing. */
const sections = new Map([
  [1, "type"],
  [2, "import"],
  [3, "function"],
  [7, "export"],
  [10, "code"],
]);

/**
 * Assembles WebAssembly text.
 *
 * @returns A module without memory, globals, data or start function of its own: data would be written over whatever the
 *   memory that it imports holds there.
 * @throws Error for text that is wrong, or asks for any of these.
 */
export async function assemble(name: string, text: string): Promise<Uint8Array> {
  // Only who builds pays for loading the assembler.
  const { default: wabt } = await import("wabt");
  const assembler = await wabt();
  const parsed = assembler.parseWat(name, text, { threads: true, simd: true, bulk_memory: true });
  try {
    const { buffer } = parsed.toBinary({});
    if (!WebAssembly.validate(buffer)) throw new Error(`${name}: not a valid module`);
    for (const section of sectionsOf(buffer))
      if (!sections.has(section))
        throw new Error(
          `${name}: section ${section} of the module is none of ${[...sections.values()].join(", ")}`,
        );
    return buffer;
  } finally {
    parsed.destroy();
  }
}

/** Numbers of the sections of a valid module. */
function* sectionsOf(module: Uint8Array): Generator<number> {
  // Behind magic and version each section is its number, its length in LEB128, and that many bytes.
  for (let at = 8; at < module.length;) {
    yield module[at++]!;
    let length = 0;
    for (let shift = 0; ; shift += 7) {
      const byte = module[at++]!;
      length |= (byte & 0x7f) << shift;
      if (byte < 0x80) break;
    }
    at += length;
  }
}

/** A module of JavaScript whose default export are the bytes of the WebAssembly module in a file of text. */
async function watModule(path: string): Promise<string> {
  const bytes = await assemble(relative(root, path), await readFile(path, "utf8"));
  return `export default /* @__PURE__ */ new Uint8Array([${bytes.join()}]);\n`;
}

/** Lets sources import `*.wat`, when they are bundled. */
export function watForBuilds(): NonNullable<Options["esbuildPlugins"]>[number] {
  return {
    name: "wat",
    setup(build) {
      build.onLoad({ filter: /\.wat$/ }, async ({ path }) => ({ contents: await watModule(path) }));
    },
  };
}

/** Lets sources import `*.wat`, when tests run them. */
export function watForTests(): { name: string; load(id: string): Promise<string> | undefined } {
  return { name: "wat", load: (id) => (id.endsWith(".wat") ? watModule(id) : undefined) };
}
