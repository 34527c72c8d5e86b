import { library } from "../../tools/tsup.js";

export default library("index", "protocol/index", "module", "node/index", "bin/hv-kvp");
