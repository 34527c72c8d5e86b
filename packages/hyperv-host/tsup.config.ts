import { library } from "../../tools/tsup.js";

export default library("index", "node/index", "node/disk-worker", "bin/hyperv-host");
