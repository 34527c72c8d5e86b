export { type BlockFile } from "./block-file.js";
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
export { type Random } from "./random.js";
export { RawDisk } from "./raw-disk.js";
export { chsGeometry, type Geometry, type VhdDescription } from "./vhd/index.js";
export { type VhdxDescription } from "./vhdx/index.js";
export { type ImageFormat, type VirtualDisk } from "./virtual-disk.js";
