export { type AsyncFile, type BlockFile, type Ended } from "./block-file.js";
export { ConcurrentDisk } from "./concurrent-disk.js";
export { copyDisk } from "./disk-copy.js";
export { ImageError, type ImageErrorCode } from "./errors.js";
export { type Finding } from "./finding.js";
export {
  checkImage,
  createImage,
  type CreateImageOptions,
  describeImage,
  type ImageDescription,
  openImage,
  type OpenImageOptions,
} from "./image.js";
export { type FlushSteps } from "./flush-steps.js";
export { type MemoryRuns } from "./memory-runs.js";
export { type Random } from "./random.js";
export { RawDisk } from "./raw-disk.js";
export { chsGeometry, type Geometry, type VhdDescription } from "./vhd/index.js";
export { type VhdxDescription } from "./vhdx/index.js";
export { type ImageFormat, type MappedDisk, type VirtualDisk } from "./virtual-disk.js";
export { zeroBytes } from "./zero-bytes.js";
