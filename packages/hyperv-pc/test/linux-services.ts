import { expect } from "vitest";
import type { ControlClient } from "@hyperv-is/hyperv-host/node/control";
import { addGuestItem, itemsOf, readPool } from "./linux-commands.mjs";
import type { StockLinux } from "./stock-linux.js";

const A_DAY_MS = 86_400_000;

/** Its heart beats, and its clock is set by the host. @param host - of its machine. */
export async function beatAndKeepTime(linux: StockLinux, host: ControlClient): Promise<void> {
  await linux.untilIntegration(({ heartbeat }) => heartbeat.answered >= 2);
  const beating = { status: "OkApplicationsUnknown", messageVersion: "3.0", lost: 0 };
  expect(await host.call("get-vm-heartbeat", {})).toMatchObject(beating);

  for (const offsetMs of [0, A_DAY_MS]) {
    await linux.output("date -s '2020-01-01 00:00:00'");
    const { syncs } = await host.call("set-vm-time", { offsetMs, sync: true });
    await linux.untilIntegration(({ timeSync }) => timeSync.syncs > syncs);
    // Linux sets its clock a moment after it has answered.
    const isSet =
      "n=0; until [ $(date +%Y) != 2020 ]; do n=$((n+1)); [ $n -lt 50 ]; usleep 20000; done";
    const seconds = Number(await linux.output(`set -e; ${isSet}; date +%s`));
    expect(Math.abs(seconds - (Date.now() + offsetMs) / 1000)).toBeLessThan(3);
  }
  const told = { messageVersion: "4.0", refused: 0 };
  expect(await host.call("get-vm-time", {})).toMatchObject(told);
}

/** Keys go both ways through its own daemon, and it tells its addresses. @param ip - of eth0, which is up. */
export async function exchangeKeyValuePairs(
  linux: StockLinux,
  host: ControlClient,
  ip: { readonly mac: string; readonly address: string; readonly gateway: string },
): Promise<void> {
  // Without a daemon the driver does not even read the offer of versions.
  expect(linux.pc.host.stats().integration!.kvp.state).toBe("negotiating");
  const notReady = { code: "ERR_GUEST_NOT_READY" };
  await expect(host.call("get-vm-kvp", {})).rejects.toMatchObject(notReady);
  await linux.output("hv_kvp_daemon");
  await linux.untilIntegration(({ kvp: { messageVersion } }) => messageVersion === "4.0");

  const items = async (pool: number): Promise<object> =>
    itemsOf(await linux.output(readPool(pool)));
  for (const [key, value] of [
    ["colour", "blue"],
    ["größe", "42 €"],
    ["colour", "green"],
  ] as const)
    await host.call("set-vm-kvp", { key, value });
  const size = { key: "größe", value: "42 €" };
  const set = [{ key: "colour", value: "green" }, size];
  expect(await items(0)).toEqual(set);
  expect(await host.call("get-vm-kvp", { pool: 0 })).toEqual(set);
  await host.call("remove-vm-kvp", { key: "colour" });
  const refused = { code: "ERR_GUEST_REFUSED" };
  await expect(host.call("remove-vm-kvp", { key: "colour" })).rejects.toMatchObject(refused);
  expect(await items(0)).toEqual([size]);

  const service = { key: "service", value: "up since the morning" };
  await linux.output(addGuestItem(service.key, service.value));
  expect(await items(1)).toEqual([service]);
  expect(await host.call("get-vm-kvp", {})).toEqual([service]);
  const itself = await host.call("get-vm-kvp", { pool: 2 });
  expect(Object.fromEntries(itself.map(({ key, value }) => [key, value]))).toMatchObject({
    FullyQualifiedDomainName: "stock.example.org",
    NetworkAddressIPv4: ip.address,
    OSBuildNumber: await linux.output("uname -r"),
    OSMajorVersion: "12",
    OSName: "Debian GNU/Linux",
    ProcessorArchitecture: "i686",
  });

  await linux.output("echo nameserver 192.0.2.53 > /etc/resolv.conf");
  expect(await host.call("get-vm-ip", { adapter: ip.mac })).toEqual({
    dhcp: false,
    addresses: [`${ip.address}/24`, expect.stringMatching(/^fe80::.*\/64$/)],
    gateways: [ip.gateway],
    dnsServers: ["192.0.2.53"],
  });
  // It has no hv_set_ifconfig.
  await expect(host.call("set-vm-ip", { adapter: ip.mac, dhcp: true })).rejects.toMatchObject(
    refused,
  );
}
