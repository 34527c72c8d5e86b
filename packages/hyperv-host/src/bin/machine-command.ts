import { ControlError } from "../control/control-error.js";
import { controlDirectory, controlPath, machineName } from "../node/control-address.js";
import { ControlClient } from "../node/control-client.js";
import { runningMachines } from "../node/machine-list.js";
import { listText, type ListedMachine } from "./machine-text.js";
import { StatsView, ViolationsView, type Look, type View } from "./machine-view.js";
import { writeOut } from "./standard-output.js";
import { Watch } from "./watch.js";

/** Commands about machines that run. */
export const machineVerbs = ["list", "stats", "violations"] as const;
export type MachineVerb = (typeof machineVerbs)[number];

/** What such a command is asked for. */
export interface MachineCommandOptions {
  /** Name of a machine, or path of its control socket; every named machine unless given. */
  readonly vm: string | undefined;
  readonly json: boolean;
  /** Again and again: until interrupted, or until the machines have ended. */
  readonly watch: boolean;
}

/** How long a machine may take to answer where it must not hold up others. */
const LIST_TIMEOUT_MS = 2000;

/** Runs such a command. @returns Exit status. */
export async function machineCommand(
  verb: MachineVerb,
  options: MachineCommandOptions,
): Promise<number> {
  try {
    if (verb === "list") return await (options.watch ? watchList(options) : list(options));
    const views = (await connect(options.vm)).map((client) =>
      verb === "stats"
        ? new StatsView(client, options.watch)
        : new ViolationsView(client, options.watch),
    );
    try {
      return await (options.watch ? watch(verb, views, options) : show(views, options));
    } finally {
      closeAll(views);
    }
  } catch (error) {
    if (!(error instanceof ControlError)) throw error;
    complain(error.message);
    return 1;
  }
}

function complain(message: string): void {
  process.stderr.write(`hyperv-host: ${message}\n`);
}

const document = (value: unknown): string => `${JSON.stringify(value, null, 2)}\n`;

async function list({ vm, json }: MachineCommandOptions): Promise<number> {
  const machines = await listMachines(vm);
  await writeOut(json ? document(machines) : `${listText(machines).join("\n")}\n`);
  for (const machine of machines) if (machine.state === "unreachable") complain(machine.error);
  return 0;
}

async function watchList({ vm, json }: MachineCommandOptions): Promise<number> {
  using output = new Watch();
  do {
    const machines = await listMachines(vm);
    if (json) await output.append([JSON.stringify({ machines })]);
    else await output.draw(listText(machines));
  } while (await output.next([]));
  return output.status ?? 0;
}

async function listMachines(vm: string | undefined): Promise<ListedMachine[]> {
  if (vm !== undefined) return [await describe(controlPath(vm))];
  const paths = await runningMachines();
  const found = await Promise.all(paths.map((path) => describe(path).catch(noneIfGone)));
  return found.flat();
}

/** A machine that has ended meanwhile is none. */
function noneIfGone(error: unknown): [] {
  if (isGone(error)) return [];
  throw error;
}

function isGone(error: unknown): boolean {
  return error instanceof ControlError && error.code === "ERR_CONTROL_GONE";
}

async function describe(path: string): Promise<ListedMachine> {
  try {
    using client = await ControlClient.connect(path, LIST_TIMEOUT_MS);
    return { state: "running", path, ...(await client.call("get-vm", {})) };
  } catch (error) {
    if (!(error instanceof ControlError) || isGone(error)) throw error;
    return { state: "unreachable", path, name: machineName(path), error: error.message };
  }
}

/** Connects to the machines that are meant. Of several, one that does not answer is told of and left out. */
async function connect(vm: string | undefined): Promise<ControlClient[]> {
  if (vm !== undefined) return [await ControlClient.connect(controlPath(vm))];
  const paths = await runningMachines();
  const found = await Promise.allSettled(
    paths.map((path) => ControlClient.connect(path, LIST_TIMEOUT_MS)),
  );
  const machines = found.flatMap((one) => {
    if (one.status === "fulfilled") return [one.value];
    complain((one.reason as Error).message);
    return [];
  });
  if (machines.length > 0) return machines;
  const where = `${controlDirectory()} has no machine that runs`;
  throw new ControlError("ERR_CONTROL_GONE", `${where}; 'boot --control NAME' starts one`);
}

function closeAll(views: readonly View[]): void {
  for (const { client } of views) client.close();
}

/** Lines of several looks, with an empty line between them. */
function paragraphs(looks: readonly Look[]): string[] {
  return looks.flatMap(({ lines }, index) => (index === 0 ? lines : ["", ...lines]));
}

async function show(views: readonly View[], { vm, json }: MachineCommandOptions): Promise<number> {
  const looks = await Promise.all(views.map((view) => view.look()));
  const values = looks.flatMap((look) => look.values);
  const text = `${paragraphs(looks).join("\n")}\n`;
  await writeOut(json ? document(vm === undefined ? values : values[0]) : text);
  return 0;
}

async function watch(
  verb: "stats" | "violations",
  views: readonly View[],
  { json }: MachineCommandOptions,
): Promise<number> {
  using output = new Watch();
  output.signal.addEventListener("abort", () => closeAll(views));
  let running = views;
  let status = 0;
  const lookAt = async (view: View): Promise<Look[]> => {
    try {
      return [await view.look()];
    } catch (error) {
      if (!(error instanceof ControlError)) throw error;
      running = running.filter((one) => one !== view);
      if (output.signal.aborted) return [];
      complain(error.message);
      if (!isGone(error)) status = 1;
      return [];
    }
  };
  do {
    const looks = (await Promise.all(running.map(lookAt))).flat();
    const values = looks.flatMap((look) => look.values);
    if (json) await output.append(values.map((value) => JSON.stringify(value)));
    else if (verb === "violations") await output.append(looks.flatMap(({ lines }) => lines));
    else if (looks.length > 0) await output.draw(paragraphs(looks));
  } while (running.length > 0 && (await output.next(running.map(({ client }) => client.closed))));
  return output.status ?? status;
}
