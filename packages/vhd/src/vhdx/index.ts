export { checkVhdx } from "./check.js";
export { createVhdx, type CreateVhdxOptions } from "./create.js";
export { describeVhdx, type VhdxDescription } from "./describe.js";
export { VhdxDisk } from "./disk.js";
export { openVhdx, type OpenVhdxOptions } from "./open.js";
