// SPDX-License-Identifier: Apache-2.0
/** Commands of the staging side, and those of the enclave with them. */
import type { Command } from './command.ts';
import { build } from './commands/build.ts';
import { init } from './commands/init.ts';
import { keygen } from './commands/keygen.ts';
import { lock } from './commands/lock.ts';
import { sign } from './commands/sign.ts';
import { split } from './commands/split.ts';
import { INSIDE } from './inside.ts';

export const ALL: readonly Command[] = [init, lock, build, sign, split, keygen, ...INSIDE];
