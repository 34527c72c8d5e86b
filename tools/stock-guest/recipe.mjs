// What the stock test guest is made of: names only, so that a reader sees the whole of it at once.

/** The last release of Debian with 32-bit kernels. */
export const debianRelease = "bookworm";

/** The package whose dependency is the release's current 32-bit kernel, for processors without PAE. */
export const kernelMetapackage = "linux-image-686";

/**
 * The files taken from each package, besides the kernel's own: paths in the package, and in the guest.
 *
 * @type {Readonly<Record<string, Readonly<Record<string, string>>>>}
 */
export const guestFiles = {
  "base-files": { "usr/lib/os-release": "etc/os-release" },
  "busybox-static": { "bin/busybox": "bin/busybox" },
  libc6: {
    "lib/ld-linux.so.2": "lib/ld-linux.so.2",
    "lib/i386-linux-gnu/libc.so.6": "lib/libc.so.6",
    "lib/i386-linux-gnu/libm.so.6": "lib/libm.so.6",
  },
  "libsgutils2-1.46-2": {
    "usr/lib/i386-linux-gnu/libsgutils2-1.46.so.2": "lib/libsgutils2-1.46.so.2",
  },
  "sg3-utils": Object.fromEntries(
    ["inq", "luns", "modes", "raw", "readcap", "requests", "sync", "turs", "unmap", "vpd"].map(
      (name) => [`usr/bin/sg_${name}`, `usr/bin/sg_${name}`],
    ),
  ),
  libmnl0: { "usr/lib/i386-linux-gnu/libmnl.so.0.2.0": "lib/libmnl.so.0" },
  ethtool: { "sbin/ethtool": "usr/sbin/ethtool" },
  "kexec-tools": { "sbin/kexec": "sbin/kexec" },
  // Helpers of hv_kvp_daemon are written for it.
  bash: { "bin/bash": "bin/bash" },
  libtinfo6: { "lib/i386-linux-gnu/libtinfo.so.6.4": "lib/libtinfo.so.6" },
  "hyperv-daemons": Object.fromEntries(
    [
      ...["hv_kvp_daemon", "hv_vss_daemon", "hv_fcopy_daemon"].map((name) => `usr/sbin/${name}`),
      ...["hv_get_dhcp_info", "hv_get_dns_info"].map((name) => `usr/libexec/hypervkvpd/${name}`),
    ].map((path) => [path, path]),
  ),
};

/** The firmware of the machine that boots it, laid beside the guest, so that nobody needs root to have it. */
export const firmware = {
  package: "seabios",
  files: {
    "usr/share/seabios/bios.bin": "bios.bin",
    "usr/share/seabios/vgabios-stdvga.bin": "vgabios-stdvga.bin",
  },
};

/**
 * The modules of the guest by the word that loads them (`stock.modules=` on the kernel's command line).
 * What they depend on comes along; the generic checksums stand here because modules ask for them by an alias.
 *
 * @type {Readonly<Record<string, readonly string[]>>}
 */
export const moduleGroups = {
  bus: ["hv_vmbus"],
  storage: [
    "crct10dif_generic",
    "crc64_rocksoft_generic",
    "crc32c_generic",
    "hv_storvsc",
    "sd_mod",
    "sr_mod",
    "sg",
    "ext4",
  ],
  network: ["hv_netvsc"],
  services: ["hv_utils"],
  desktop: ["hyperv_keyboard", "hid_hyperv", "hyperv_drm"],
  memory: ["hv_balloon"],
  sockets: ["hv_sock"],
  uio: ["uio_hv_generic"],
};
