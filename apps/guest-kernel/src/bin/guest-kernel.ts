#!/usr/bin/env node
import { guestKernelCommand } from "./guest-kernel-command.js";
import { preferLatency } from "../latency.js";

preferLatency();
process.exitCode = await guestKernelCommand(process.argv.slice(2));
