import { library } from "../../tools/tsup.js";

export default library(
  "index",
  "trace/index",
  "control/index",
  "node/index",
  "node/control",
  "node/processor",
  "node/disk-worker",
  "node/network-worker",
  "node/lent-thread-body",
  "bin/hyperv-host",
);
