// The same driver under another name, as a kernel loads it from a file.
export * from "./echo-driver.js";
export const name = "echo_file";
