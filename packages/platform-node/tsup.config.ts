import { library } from "../../tools/tsup.js";

export default library("index");
