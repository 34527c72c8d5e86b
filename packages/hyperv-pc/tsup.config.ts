import { library } from "../../tools/tsup.js";

export default library("index", "node/index", "bin/hyperv-pc");
