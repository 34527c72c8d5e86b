import { testQemuImages } from "./qemu-images.js";

// A share of the campaign `qemu`.
testQemuImages(4);
