import { project } from "../../tools/vitest.js";

export default project("vmbus-core");
