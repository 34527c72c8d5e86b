import { KvpDaemon, MemoryPools, noNetwork, type KvpDevice } from "@hyperv-is/hv-kvp";
import { kvpDriver } from "@hyperv-is/hv-kvp/module";
import type { DeviceDialect } from "@hyperv-is/hv-kvp/protocol";
import type { IcChannel, IcComponent } from "@hyperv-is/hv-utils";
import { heartbeat, shutdown, timeSync } from "@hyperv-is/hv-utils/module";
import { NT_TO_UNIX_100NS } from "@hyperv-is/hv-utils/protocol";
import { IntegrationServices, type IntegrationConfig } from "@hyperv-is/hyperv-host";
import type { ShutdownAction, SystemServices, VmbusDevice } from "@hyperv-is/vmbus-core";
import { DeviceClass } from "@hyperv-is/vmbus-core/protocol";
import type { Prng } from "@hyperv-is/conformance";
import { SimulatedMachine, check, type SimulatedMachineOptions } from "./simulated-machine.js";

export interface ComponentMachineOptions extends SimulatedMachineOptions {
  readonly dialect: DeviceDialect;
  readonly config: IntegrationConfig;
  readonly daemon: DaemonPlan;
}

/** How a daemon of key-value pairs behaves. */
export interface DaemonPlan {
  /** What draws it. */
  readonly prng: Prng;
  /** One answer in so many takes longer than its driver waits; 0: none. */
  readonly slowEvery: number;
  /** It dies of one request in so many; 0: of none. */
  readonly diesEvery: number;
}

const START_100NS = BigInt(Date.UTC(2026, 0, 1)) * 10_000n;
/** How long a daemon that has died stays away, at most. */
const AWAY_MS = 400;
/** By how much a slow one is too late, at most. */
const SLOW_MS = 2000;

/** Instances of the components, as `standardDevices` offers them. */
export const componentIds = (["heartbeat", "shutdown", "timeSync", "kvp"] as const).map(
  (name) => DeviceClass[name].instanceIds[0],
);

/** A machine with the integration components of our guest and of our host. */
export class ComponentMachine extends SimulatedMachine<IcChannel> {
  readonly host: IntegrationServices;
  readonly pools = new MemoryPools();
  /** What its host had the system do. */
  readonly actions: ShutdownAction[] = [];
  /** By how much the guest's clock is off. */
  guestOffset100ns = -864_000_000_000n;
  /** Daemons that died, and answers that were late. */
  readonly daemons = { died: 0, slow: 0 };
  /** From now on the daemon is quick, and lives. */
  isCalm = false;
  readonly #kvp: ReturnType<typeof kvpDriver>;
  readonly #everAttached: IcComponent[] = [];
  readonly #plan: DaemonPlan;

  constructor(options: ComponentMachineOptions) {
    super(options, heartbeat);
    const { simulation, dialect, config, daemon } = options;
    this.#plan = daemon;
    this.#kvp = kvpDriver({ dialect });
    this.host = new IntegrationServices(
      { timers: simulation, realTime: () => this.#now100ns() + NT_TO_UNIX_100NS },
      config,
    );
    this.host.serve(this.partition.workers[0]!);
  }

  boot(): Promise<void> {
    const { heartbeat: beat, shutdown: stop, timeSync: time, kvp } = DeviceClass;
    return this.connect(...[beat, stop, time, kvp].map(({ classId }) => classId));
  }

  /** Every channel that ever was. */
  get everAttached(): readonly IcComponent[] {
    return this.#everAttached;
  }

  async shutdown(): Promise<void> {
    await this.settled();
    await Promise.all(this.#everAttached.map((component) => component.detach()));
    await this.disconnect();
  }

  protected override async attach(device: VmbusDevice): Promise<void> {
    const context = { ...this.contextOf(device), system: this.#system };
    const driver = [heartbeat, shutdown, timeSync].find(
      (one) => one.probe(device.classId) !== undefined,
    );
    try {
      if (driver !== undefined) {
        this.#everAttached.push(await driver.control(context));
        return;
      }
      const component = await this.#kvp.control(context);
      this.#everAttached.push(component);
      this.#openDaemon(component.service.device);
    } catch (error) {
      this.attachErrors.push(error);
    }
  }

  get #system(): SystemServices {
    return {
      realTime: {
        nowNs: () => (this.#now100ns() + this.guestOffset100ns) * 100n,
        set: (timeNs) => void (this.guestOffset100ns = timeNs / 100n - this.#now100ns()),
      },
      referenceTime: () => BigInt(Math.floor(this.timers.now() * 10_000)),
      health: () => "healthy",
      shutdown: (action) => void this.actions.push(action),
    };
  }

  #now100ns(): bigint {
    return START_100NS + BigInt(Math.floor(this.timers.now() * 10_000));
  }

  /** Has a daemon serve a driver, and another one when that has died, until the driver is gone. */
  #openDaemon(device: KvpDevice): void {
    const { prng, slowEvery, diesEvery } = this.#plan;
    const { messageBytes, answersRegistration, timeoutMs } = device.dialect;
    const { pools } = this;
    const facts = { read: () => Promise.reject(new Error("nobody enumerates pool 2")) };
    const daemon = new KvpDaemon({ dialect: device.dialect, pools, network: noNetwork, facts });
    const isDrawn = (every: number): boolean => !this.isCalm && every > 0 && prng.chance(1, every);
    let isAlive = true;
    let isRegistered = !answersRegistration;
    const serve = async (message: Uint8Array): Promise<void> => {
      const diesWithAnswer = isDrawn(diesEvery);
      if (isDrawn(diesEvery)) {
        die();
        return;
      }
      const answer = await daemon.answer(message);
      if (!isAlive || answer === undefined) return;
      check(answer.byteLength === messageBytes, `an answer of ${answer.byteLength} bytes`);
      if (diesWithAnswer) die();
      else opened.write(answer);
    };
    const file = device.open({
      message: (message) => {
        if (!isRegistered) {
          isRegistered = true;
          return;
        }
        const isSlow = isDrawn(slowEvery);
        if (isSlow) this.daemons.slow++;
        const delayMs = isSlow ? timeoutMs + prng.below(SLOW_MS) : prng.below(64) / 8;
        this.timers.after(delayMs, () => {
          if (isAlive) this.begin(serve(message));
        });
      },
      gone: () => void (isAlive = false),
    });
    if (typeof file === "string") return;
    const opened = file;
    const die = (): void => {
      isAlive = false;
      this.daemons.died++;
      opened.close();
      this.timers.after(prng.below(AWAY_MS), () => this.#openDaemon(device));
    };
    opened.write(daemon.registration());
  }
}
