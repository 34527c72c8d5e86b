#!/usr/bin/env node
import { vhdCommand } from "./vhd-command.js";

process.exitCode = await vhdCommand(process.argv.slice(2));
