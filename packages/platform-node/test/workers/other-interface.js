// A driver module that was built for another kernel.
export * from "./echo-driver.js";
export const kernelInterface = 77;
