#!/usr/bin/env node
import { hypervHostCommand } from "./hyperv-host-command.js";

process.exitCode = await hypervHostCommand(process.argv.slice(2));
