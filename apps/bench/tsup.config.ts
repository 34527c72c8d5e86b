import { library } from "../../tools/tsup.js";

export default library("index", "ring/ring-end", "storage/vcpu");
