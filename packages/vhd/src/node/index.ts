export {
  checkImageFile,
  createImageFile,
  describeImageFile,
  openFile,
  type OpenFileOptions,
  openImageFile,
  systemRandom,
} from "./open.js";
