import { testQemuImages } from "./qemu-images.js";

testQemuImages(1);
