import { KvpOperation, type KvpRequest } from "@hyperv-is/hv-kvp/protocol";
import { GuestError, type GuestItem, type KvpResult } from "@hyperv-is/hyperv-host";
import { formatVersion } from "@hyperv-is/vmbus-core/protocol";
import { Simulation, SimulationError } from "@hyperv-is/conformance";
import { ComponentMachine, componentIds } from "./components-machine.js";
import { ComponentPlan } from "./components-plan.js";
import { check } from "./simulated-machine.js";

/** What one schedule did; equal for equal seeds. */
export interface ComponentScheduleResult {
  readonly steps: number;
  /** What the host asked of the daemon, and what of it failed. */
  readonly requests: number;
  readonly failures: number;
  readonly heartbeats: number;
  readonly faults: number;
  readonly rescinds: number;
  readonly deaths: number;
  readonly slowAnswers: number;
  readonly busVersion: string;
}

const STEP_BOUND = 400_000;
const TURN_MS = 1 / 64;
/** How long the components may take until they work again, and between two looks. */
const PATIENCE_MS = 60_000;
const LOOK_MS = 250;
/** The clock that the guest is to have at the end is off by so much. */
const OFFSET_MS = 12_345;

/**
 * Runs one schedule of our guest's integration components against our host's. Throws a `SimulationError` that names the
 * seed when a request has no answer or two, an answer is not what the pool had, a failure has no reason; when a component
 * does not work any more once nothing goes wrong; when the host noted a violation, memory is not accounted for, or the
 * machine does not come to rest.
 */
export async function runComponentSchedule(seed: number): Promise<ComponentScheduleResult> {
  const simulation = new Simulation(seed, { turnMs: TURN_MS });
  const plan = new ComponentPlan(seed);
  try {
    const machine = new ComponentMachine({ simulation, ...plan.machine });
    const administrator = new Administrator(machine, plan);
    await simulation.complete(administrator.story(), STEP_BOUND, [machine.guest]);
    simulation.run(STEP_BOUND);
    machine.inspect(plan.has("stalled-ring") || administrator.rescinds > 0);
    const { heartbeat, kvp } = machine.host.stats;
    check(kvp.asked === kvp.answered + kvp.failed, `${kvp.asked} requests were asked`);
    return {
      steps: simulation.steps,
      requests: administrator.requests,
      failures: administrator.failures,
      heartbeats: heartbeat.answered,
      faults: administrator.faults,
      rescinds: administrator.rescinds,
      deaths: machine.daemons.died,
      slowAnswers: machine.daemons.slow,
      busVersion: formatVersion(machine.busVersion),
    };
  } catch (error) {
    if (error instanceof SimulationError) throw error;
    const message = error instanceof Error ? error.message : String(error);
    throw new SimulationError(seed, message, { cause: error });
  }
}

/** Who uses the host's components, and knows what the guest's pool may hold. */
class Administrator {
  requests = 0;
  failures = 0;
  rescinds = 0;
  faults = 0;
  readonly #machine: ComponentMachine;
  readonly #plan: ComponentPlan;
  /** What each key may have: more than one after a request that failed, which may have been carried out. */
  readonly #values = new Map<string, ReadonlySet<string | undefined>>();

  constructor(machine: ComponentMachine, plan: ComponentPlan) {
    this.#machine = machine;
    this.#plan = plan;
  }

  /** The machine from power on to power off. */
  async story(): Promise<void> {
    const machine = this.#machine;
    await machine.boot();
    await this.#trouble();
    this.faults = machine.partition.stats().faults.reduce((sum, one) => sum + one.happened, 0);
    machine.partition.setFaults({ faults: [] });
    machine.isCalm = true;
    await this.#recovery();
    await machine.shutdown();
  }

  async #trouble(): Promise<void> {
    const { prng, administrator } = this.#plan;
    for (let count = 0; count < administrator.requests; count++) {
      const { rescindEvery } = administrator;
      if (rescindEvery > 0 && prng.chance(1, rescindEvery)) {
        const isThere = this.#machine.partition.rescind(prng.pick(componentIds), prng.below(800));
        if (isThere) this.rescinds++;
      }
      if (prng.chance(1, 5)) await this.#enumerate();
      else await this.#ask(this.#request());
      if (prng.chance(1, 2)) await this.#pass(prng.below(LOOK_MS));
    }
  }

  /** Nothing goes wrong any more: every component does what it is for. */
  async #recovery(): Promise<void> {
    const { host } = this.#machine;
    const request = { operation: KvpOperation.set, pool: 0, key: "last", value: "1" } as const;
    await this.#until("a key is set", async () => (await this.#ask(request)).kind === "done");
    await this.#until("a pool is enumerated", () => this.#enumerate());

    const { answered } = host.heartbeat.stats;
    await this.#until(
      "the heart beats",
      () =>
        host.heartbeat.stats.answered > answered + 1 &&
        host.heartbeat.stats.status === "OkApplicationsHealthy",
    );

    host.timeSync.offsetMs = OFFSET_MS;
    const { syncs } = host.timeSync.stats;
    await this.#until("the host sets the clock", () => host.timeSync.sync());
    await this.#until("the clock is set", () => host.timeSync.stats.syncs > syncs);
    const offMs = Number(this.#machine.guestOffset100ns) / 10_000;
    check(Math.abs(offMs - OFFSET_MS) < 1000, `the guest's clock is off by ${offMs} ms`);

    const power = { action: "power-off", force: false, message: "" } as const;
    const asked = new Promise<boolean>((resolve) =>
      host.shutdown.ask(power, (result) =>
        resolve(result.kind === "answered" && result.status === 0),
      ),
    );
    check(await asked, "the guest would not shut down");
    await this.#until("it shuts down", () => this.#machine.actions.length > 0);
    check(this.#machine.actions.join() === "power-off", `it did ${this.#machine.actions.join()}`);
  }

  #request(): KvpRequest {
    const { prng } = this.#plan;
    const pool = 0;
    const key = `key ${prng.below(4)}`;
    const operation = prng.pick([KvpOperation.set, KvpOperation.delete, KvpOperation.get]);
    return operation === KvpOperation.set
      ? { operation, pool, key, value: `välue ${prng.next()}` }
      : { operation, pool, key };
  }

  /** Has the guest asked, once, and compares what it says with what it may. */
  async #ask(request: KvpRequest): Promise<KvpResult> {
    this.requests++;
    let answers = 0;
    const result = await new Promise<KvpResult>((resolve) =>
      this.#machine.host.kvp.ask(request, (found) => {
        check(++answers === 1, "a request has two results");
        resolve(found);
      }),
    );
    if (result.kind === "failed") this.#explain(result.error);
    if (!("key" in request)) return result;
    const { key } = request;
    const before = this.#values.get(key) ?? new Set([undefined]);
    const isSet = request.operation === KvpOperation.set;
    const wanted = isSet ? String(request.value) : undefined;
    switch (result.kind) {
      case "failed":
        if (request.operation !== KvpOperation.get)
          this.#values.set(key, new Set([...before, wanted]));
        break;
      case "none":
        check(!isSet, `${key} could not be set`);
        check(before.has(undefined), `${key} is not there`);
        this.#values.set(key, new Set([undefined]));
        break;
      case "done": {
        if (request.operation !== KvpOperation.get) {
          this.#values.set(key, new Set([wanted]));
          break;
        }
        const found = String(result.item!.value);
        check(before.has(found), `${key} is '${found}'`);
        this.#values.set(key, new Set([found]));
      }
    }
    return result;
  }

  /** @returns Whether the guest has told all that there is. */
  async #enumerate(): Promise<boolean> {
    this.requests++;
    const items = await new Promise<readonly GuestItem[] | GuestError>((resolve) =>
      this.#machine.host.kvp.enumerate(0, resolve),
    );
    if (items instanceof GuestError) {
      this.#explain(items);
      return false;
    }
    const found = new Map(items.map(({ key, value }) => [key, String(value)]));
    check(found.size === items.length, "a key is there twice");
    for (const key of found.keys()) check(this.#values.has(key), `nobody has set ${key}`);
    for (const [key, values] of this.#values) {
      const value = found.get(key);
      check(values.has(value), `${key} is ${value === undefined ? "not there" : `'${value}'`}`);
      this.#values.set(key, new Set([value]));
    }
    return true;
  }

  /** Throws unless a fault, a rescind or the daemon can have made a request fail so. */
  #explain({ code }: GuestError): void {
    this.failures++;
    const { slowEvery, diesEvery } = this.#plan.machine.daemon;
    const isCutOff = this.#plan.has("renegotiation") || this.rescinds > 0;
    const reasons: Readonly<Record<string, boolean>> = {
      // Before the daemon has come for the first time, too.
      ERR_GUEST_NOT_READY: true,
      ERR_GUEST_GONE: isCutOff,
      ERR_GUEST_REFUSED: slowEvery + diesEvery > 0,
    };
    check(reasons[code] === true, `a request failed with ${code}, and no reason`);
  }

  #pass(delayMs: number): Promise<void> {
    return new Promise((resolve) => void this.#machine.timers.after(delayMs, resolve));
  }

  async #until(what: string, isSo: () => boolean | Promise<boolean>): Promise<void> {
    for (let passed = 0; passed < PATIENCE_MS; passed += LOOK_MS) {
      if (await isSo()) return;
      await this.#pass(LOOK_MS);
    }
    throw new Error(`never: ${what}`);
  }
}
