import type { Guid } from "@hyperv-is/vmbus-core/protocol";
import type { ShutdownAction } from "@hyperv-is/vmbus-core";
import type { NbdServed } from "../nbd/export-address.js";
import type { ListResult } from "./shell.js";

/** What the machine asks of the guest: plain messages. Requests have numbers, answers repeat them. */
export type ConsoleRequest =
  | {
      readonly kind: "exec";
      readonly id: number;
      readonly line: string;
      /** Somebody watches: progress may be shown. */
      readonly interactive: boolean;
    }
  /** Ctrl-C. */
  | { readonly kind: "abort"; readonly id: number }
  /** A chunk of standard output was taken; the next may come. */
  | { readonly kind: "taken"; readonly id: number }
  | { readonly kind: "complete"; readonly id: number; readonly line: string }
  | { readonly kind: "inspect"; readonly id: number }
  /** A call of the machine, or its answer to one: see `CallLink`. */
  | { readonly kind: "call"; readonly message: unknown }
  /** The thread of a CPU has ended. */
  | { readonly kind: "cpu-lost"; readonly cpu: number; readonly reason: string }
  | { readonly kind: "shutdown" };

/** A disk of the guest. */
export interface GuestDisk {
  readonly name: string;
  readonly sizeBytes: number;
  readonly blockBytes: number;
  readonly readOnly: boolean;
  /** FreeBSD's type of each partition, in the order of the table. */
  readonly partitionTypes: readonly string[];
}

/** A network adapter of the guest. */
export interface GuestNic {
  /** `hn0`. */
  readonly name: string;
  readonly instanceId: Guid;
  /** With colons. */
  readonly mac: string;
  /** Largest packet behind the Ethernet header, in bytes. */
  readonly mtu: number;
  /** Open channels, each on a CPU. */
  readonly channels: number;
}

/** What the guest says. */
export type ConsoleReply =
  /** A line of dmesg. */
  | { readonly kind: "message"; readonly line: string }
  | {
      readonly kind: "booted";
      readonly disks: readonly GuestDisk[];
      readonly nics: readonly GuestNic[];
      readonly nbd: readonly NbdServed[];
    }
  /** The next list of a line begins. */
  | { readonly kind: "list"; readonly id: number }
  | { readonly kind: "stdout"; readonly id: number; readonly chunk: Uint8Array }
  | { readonly kind: "stderr"; readonly id: number; readonly text: string }
  | {
      readonly kind: "done";
      readonly id: number;
      readonly results: readonly ListResult[];
      /** What a command has the machine shut down for. */
      readonly shutdown: ShutdownAction | undefined;
    }
  | { readonly kind: "completions"; readonly id: number; readonly words: readonly string[] }
  | { readonly kind: "inspected"; readonly id: number; readonly state: Record<string, unknown> }
  /** The host wants the system to end in good order. */
  | { readonly kind: "shutdown-request"; readonly action: ShutdownAction }
  /** An answer to a call of the machine. */
  | { readonly kind: "call"; readonly message: unknown }
  /** A CPU does not answer: its thread is to be ended. */
  | { readonly kind: "stop-cpu"; readonly cpu: number };
