import type { Guid } from "@hyperv-is/vmbus-core/protocol";
import type { CaptureStats, NicStats } from "../netvsp/nic-config.js";
import { ControlError } from "./control-error.js";
import { method, type ControlledCaptures, type ControlledMachine } from "./control-method.js";

/** A capture of a network adapter. */
export interface MachineCapture extends CaptureStats {
  readonly instanceId: Guid;
}

/** `hn0`, or an instance id. */
const adapterRule = {
  required: true,
  type: "text",
  expected: "the name of a network adapter",
  parse: (text: string) => text,
} as const;

/** The methods of the control socket that are about captures of network adapters. */
export const captureMethods = {
  /** Captures what goes over a network adapter's port into a pcapng file that the machine makes, until `stop-capture`. */
  "start-capture": method<
    {
      readonly adapter: string;
      readonly path: string;
      readonly count?: number;
      readonly snapBytes?: number;
    },
    MachineCapture
  >({
    params: {
      adapter: adapterRule,
      path: {
        required: true,
        type: "text",
        expected: "an absolute path",
        parse: (text) => (text.startsWith("/") ? text : undefined),
      },
      count: { type: "integer", least: 1 },
      snapBytes: { type: "integer", least: 1 },
    },
    async run(machine, { adapter, path, ...limits }) {
      const { instanceId, capture } = await findAdapter(machine, adapter);
      if (capture !== undefined)
        throw new ControlError(
          "ERR_CONTROL_CAPTURE",
          `${adapter} is captured already, into ${capture.path}: 'hyperv-host capture VM ${adapter} --stop' ends that`,
        );
      await capturing(machine, (captures) =>
        captures.startCapture({ instanceId, path, ...limits }),
      );
      return { instanceId, path, frames: 0 };
    },
  }),

  /** Ends the capture of a network adapter: the file is complete then. */
  "stop-capture": method<{ readonly adapter: string }, MachineCapture>({
    params: { adapter: adapterRule },
    async run(machine, { adapter }) {
      const { instanceId } = await findAdapter(machine, adapter);
      const stopped = await capturing(machine, (captures) => captures.stopCapture(instanceId));
      if (stopped === undefined)
        throw new ControlError("ERR_CONTROL_CAPTURE", `${adapter} is not captured`);
      return { instanceId, ...stopped };
    },
  }),
} as const;

/** A network adapter by `hn0`, its number, or by its instance id. */
async function findAdapter(machine: ControlledMachine, name: string): Promise<NicStats> {
  const { adapters = [] } = await machine.stats();
  const found = adapters.find(
    ({ instanceId }, index) => name === `hn${index}` || name.toLowerCase() === instanceId,
  );
  if (found !== undefined) return found;
  const known =
    adapters.length === 0 ? "none" : adapters.map((_, index) => `hn${index}`).join(", ");
  throw new ControlError(
    "ERR_CONTROL_CAPTURE",
    `the machine has no network adapter ${name}; it has ${known}`,
  );
}

/** Does something about captures; what goes wrong is the client's to know. */
async function capturing<Result>(
  { captures }: ControlledMachine,
  work: (captures: ControlledCaptures) => Promise<Result>,
): Promise<Result> {
  if (captures === undefined)
    throw new ControlError("ERR_CONTROL_CAPTURE", "this machine's adapters cannot be captured");
  try {
    return await work(captures);
  } catch (cause) {
    throw new ControlError("ERR_CONTROL_CAPTURE", (cause as Error).message, { cause });
  }
}
