// The storage protocol, for the guest driver and the host alike: data and pure functions.
export * from "./versions.js";
export * from "./vstor.js";
export * from "./initialization.js";
export * from "./fibre-channel.js";
export * from "./offer.js";
export * from "./srb.js";
export * from "./nt-status.js";
export * from "./scsi.js";
export * from "./sense.js";
export * from "./cdb.js";
export * from "./inquiry.js";
export * from "./vpd.js";
export * from "./capacity.js";
export * from "./mode.js";
export * from "./report-luns.js";
export * from "./unmap.js";
export * from "./lba-status.js";
