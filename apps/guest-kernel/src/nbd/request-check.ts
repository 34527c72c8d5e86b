import type { ExportDescription } from "./handshake.js";
import { Command, CommandFlag, NbdError, TransmissionFlag } from "./protocol.js";
import type { RequestFields } from "./request-reader.js";

/** Flags that a command may have, and what its range must be. */
interface CommandRule {
  readonly flags: number;
  /** Transmission flag without which a client must not send it; 0 for none. */
  readonly offered: number;
  /** It changes the disk. */
  readonly writes: boolean;
  /** What a range that leaves the disk is answered with. */
  readonly outside: NbdError;
}

const { fua, noHole, df, reqOne, fastZero } = CommandFlag;
const { EINVAL, ENOSPC } = NbdError;

/** Clients are known to set FUA on commands that write nothing, and it has to be accepted there. */
const rules: ReadonlyMap<number, CommandRule> = new Map<number, CommandRule>([
  [Command.read, { flags: fua | df, offered: 0, writes: false, outside: EINVAL }],
  [Command.write, { flags: fua, offered: 0, writes: true, outside: ENOSPC }],
  [Command.trim, { flags: fua, offered: TransmissionFlag.sendTrim, writes: true, outside: EINVAL }],
  [
    Command.cache,
    { flags: fua, offered: TransmissionFlag.sendCache, writes: false, outside: EINVAL },
  ],
  [
    Command.writeZeroes,
    {
      flags: fua | noHole | fastZero,
      offered: TransmissionFlag.sendWriteZeroes,
      writes: true,
      outside: ENOSPC,
    },
  ],
  [Command.blockStatus, { flags: fua | reqOne, offered: 0, writes: false, outside: EINVAL }],
]);

/**
 * What a request is refused with, before anything is done; `NbdError.none` when it may be carried out.
 *
 * @param agreed - What the handshake ended with.
 */
export function checkRequest(
  request: RequestFields,
  agreed: {
    readonly export: ExportDescription;
    readonly structuredReplies: boolean;
    readonly allocationContext: boolean;
  },
): NbdError {
  const { type, flags, offset, lengthBytes } = request;
  if (type === Command.flush)
    return (flags & ~fua) === 0 && offset === 0 && lengthBytes === 0 ? NbdError.none : EINVAL;
  const rule = rules.get(type);
  if (rule === undefined || (flags & ~rule.flags) !== 0) return EINVAL;
  const { flags: exported, sizeBytes, minimumBlockBytes } = agreed.export;
  if (rule.writes && (exported & TransmissionFlag.readOnly) !== 0) return NbdError.EPERM;
  if ((exported & rule.offered) !== rule.offered) return EINVAL;
  if ((flags & df) !== 0 && !agreed.structuredReplies) return EINVAL;
  if (type === Command.blockStatus && !agreed.allocationContext) return EINVAL;
  if (offset > sizeBytes || lengthBytes > sizeBytes - offset) return rule.outside;
  if (
    lengthBytes === 0 ||
    offset % minimumBlockBytes !== 0 ||
    lengthBytes % minimumBlockBytes !== 0
  )
    return EINVAL;
  return NbdError.none;
}
