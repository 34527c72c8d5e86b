// Entry of the guest's virtual processors: the first attaches the disk by its driver, and all read from it as it is told.
import {
  DoorbellBells,
  HypervisorState,
  VirtualProcessor,
} from "@hyperv-is/hyperv-host/node/processor";
import { driver } from "@hyperv-is/hv-storvsc/module";
import { NodeClock, runVcpu } from "@hyperv-is/platform-node";
import { ApplicationProcessor } from "./application-processor.js";
import { BootProcessor, type GuestRequest, type VcpuProgramData } from "./boot-processor.js";
import { CountingProcessor } from "./reader.js";

let processor: CountingProcessor | undefined;
let boot: BootProcessor | undefined;
let application: ApplicationProcessor | undefined;

await runVcpu<VcpuProgramData>([driver], {
  hypervisor({ data, memory }) {
    const state = new HypervisorState(data.program.state);
    const { index } = data;
    const bells = new DoorbellBells(state);
    processor = new CountingProcessor(
      new VirtualProcessor({ state, memory, index, bells, clock: new NodeClock() }),
    );
    return processor;
  },
  main(vcpu) {
    if (vcpu.index === 0) return (boot = new BootProcessor(vcpu, processor!)).main();
    return (application = new ApplicationProcessor(vcpu, processor!)).main();
  },
  message(_vcpu, message, from) {
    if (from === undefined) boot?.receive(message as GuestRequest);
    else if (boot !== undefined) boot.receiveFrom(from, message);
    else application?.receive(message);
  },
});
