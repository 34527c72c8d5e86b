/** Where identities (unique ids, file and log GUIDs) come from; a test hands in a seeded one. */
export interface Random {
  /** Overwrites all of `target` with random bytes. */
  fill(target: Uint8Array): void;
}
