import {
  formatIpSettings,
  isKey,
  KVP_POOL_COUNT,
  KvpLimit,
  KvpOperation,
  KvpPool,
  parseAdapterGuid,
  parseIpSettings,
  parseMac,
  utf8Bytes,
  type IpSettings,
  type PlainIpSettings,
} from "@hyperv-is/hv-kvp/protocol";
import type { FieldRule } from "../field-rules.js";
import { GuestError, type GuestItem } from "../integration/index.js";
import { ControlError } from "./control-error.js";
import { method, type ControlledMachine } from "./control-method.js";

/** A key and its value, as JSON. */
export interface KeyValuePair {
  readonly key: string;
  readonly value: string;
}

const pool: FieldRule = { type: "integer", least: 0, most: KVP_POOL_COUNT - 1 };
const key: FieldRule = {
  type: "text",
  required: true,
  expected: `a key of 1 to ${KvpLimit.keyBytes - 1} bytes without control characters`,
  parse: (text) => (isKey(text) ? text : undefined),
};
const value: FieldRule = {
  type: "text",
  required: true,
  expected: `a value of at most ${KvpLimit.valueBytes - 1} bytes without NUL`,
  parse: (text) =>
    utf8Bytes(text) < KvpLimit.valueBytes && !text.includes("\0") ? text : undefined,
};
const adapter: FieldRule = {
  type: "text",
  required: true,
  expected: "an adapter's instance GUID or MAC address",
  parse: (text) => parseAdapterGuid(text) ?? parseMac(text),
};

/** The methods about key-value pairs and addresses; Hyper-V has them in WMI only. */
export const keyValueMethods = {
  /** The items of a pool of the guest, in its order; pool 1, what its programs say, unless told. */
  "get-vm-kvp": method<{ readonly pool?: KvpPool }, readonly KeyValuePair[]>({
    params: { pool },
    async run(machine, { pool: of = KvpPool.guest }) {
      const items = await machine.request({ kind: "kvp-enumerate", pool: of });
      return (items as readonly GuestItem[]).map((item) => ({
        key: item.key,
        value: String(item.value),
      }));
    },
  }),

  /** AddKvpItems and ModifyKvpItems: sets a key; in pool 0 unless told. */
  "set-vm-kvp": method<{ readonly pool?: KvpPool } & KeyValuePair, object>({
    params: { pool, key, value },
    async run(machine, { pool: of = KvpPool.external, ...item }) {
      const request = { operation: KvpOperation.set, pool: of, ...item } as const;
      await machine.request({ kind: "kvp", request });
      return {};
    },
  }),

  /** RemoveKvpItems: deletes a key; from pool 0 unless told. */
  "remove-vm-kvp": method<{ readonly pool?: KvpPool; readonly key: string }, object>({
    params: { pool, key },
    async run(machine, { pool: of = KvpPool.external, key: name }) {
      const request = { operation: KvpOperation.delete, pool: of, key: name } as const;
      await machine.request({ kind: "kvp", request });
      return {};
    },
  }),

  /** The addresses of an adapter, as the guest says. */
  "get-vm-ip": method<{ readonly adapter: string }, PlainIpSettings>({
    params: { adapter },
    async run(machine, { adapter: id }) {
      const { mac } = await findAdapter(machine, id);
      const request = { operation: KvpOperation.getIpInfo, adapterId: mac } as const;
      return formatIpSettings((await machine.request({ kind: "kvp", request })) as IpSettings);
    },
  }),

  /** SetGuestNetworkAdapterConfiguration: has the guest set the addresses of an adapter. */
  "set-vm-ip": method<{ readonly adapter: string } & Partial<PlainIpSettings>, object>({
    params: {
      adapter,
      dhcp: { type: "boolean" },
      addresses: { type: "list" },
      gateways: { type: "list" },
      dnsServers: { type: "list" },
    },
    async run(machine, { adapter: id, dhcp = false, ...lists }) {
      const { addresses = [], gateways = [], dnsServers = [] } = lists;
      const settings = parseIpSettings({ dhcp, addresses, gateways, dnsServers });
      if (settings === undefined)
        throw new ControlError(
          "ERR_CONTROL_PARAMS",
          "addresses are as 192.0.2.10/24, gateways and DNS servers without a prefix",
        );
      const { adapterId } = await findAdapter(machine, id);
      const request = { operation: KvpOperation.setIpInfo, adapterId, settings } as const;
      await machine.request({ kind: "kvp", request });
      return {};
    },
  }),
} as const;

/** The adapter with an instance GUID or a MAC address, both as messages have them. */
async function findAdapter(
  machine: ControlledMachine,
  id: string,
): Promise<{ readonly mac: string; readonly adapterId: string }> {
  const { adapters = [] } = await machine.stats();
  for (const { instanceId, mac } of adapters) {
    const found = { mac: mac.toUpperCase(), adapterId: `{${instanceId}}` };
    if (found.mac === id || found.adapterId === id) return found;
  }
  const known = adapters.map(({ instanceId, mac }) => `${instanceId} (${mac})`).join(", ");
  throw new GuestError(
    "ERR_GUEST_NOT_READY",
    `the machine has no adapter ${id}; it has ${known === "" ? "none" : known}`,
  );
}
