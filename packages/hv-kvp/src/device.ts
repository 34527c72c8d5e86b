import type { KvpDaemon } from "./daemon.js";
import type { DeviceDialect } from "./protocol/index.js";

/** What whoever has opened the device is told. */
export interface KvpDeviceReader {
  /** A message of the kernel. */
  message(message: Uint8Array): void;
  /** The driver is gone: the device is to be closed. */
  gone(): void;
}

/** The device, opened. */
export interface KvpDeviceFile {
  /** Writes a message of the dialect's size. @returns What Unix calls the error, if it is refused. */
  write(message: Uint8Array): "EINVAL" | undefined;
  close(): void;
}

/** The driver's device, which a daemon opens: a node in `/dev` to a program, this to code of the kernel. */
export interface KvpDevice {
  readonly dialect: DeviceDialect;
  /** One may have it open at a time. */
  open(reader: KvpDeviceReader): KvpDeviceFile | "EBUSY" | "ENXIO";
}

/**
 * Has a daemon serve a device in its own program. Undefined if another one does, or the driver is gone.
 *
 * @param gone - The driver went away; the daemon may be served elsewhere.
 */
export function attachDaemon(
  device: KvpDevice,
  daemon: KvpDaemon,
  gone: () => void = () => undefined,
): KvpDeviceFile | undefined {
  const file = device.open({
    message(message) {
      void daemon.answer(message).then((answer) => {
        if (answer !== undefined && typeof file === "object") file.write(answer);
      });
    },
    gone,
  });
  if (typeof file !== "object") return undefined;
  file.write(daemon.registration());
  return file;
}
