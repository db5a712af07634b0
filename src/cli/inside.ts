// SPDX-License-Identifier: Apache-2.0
/** Commands of the enclave. Nothing here may lead to src/build or to the signing of bundles. */
import type { Command } from './command.ts';
import { audit } from './commands/audit.ts';
import { diff } from './commands/diff.ts';
import { doctor } from './commands/doctor.ts';
import { gc } from './commands/gc.ts';
import { inspect } from './commands/inspect.ts';
import { install } from './commands/install.ts';
import { keysAdd, keysList, keysRemove, keysRotate } from './commands/keys.ts';
import { reload } from './commands/reload.ts';
import { repair } from './commands/repair.ts';
import { rollback } from './commands/rollback.ts';
import { status } from './commands/status.ts';
import { trustHostKey } from './commands/trust-host-key.ts';
import { trustShow } from './commands/trust-show.ts';
import { trustUpdate } from './commands/trust-update.ts';
import { uninstall } from './commands/uninstall.ts';
import { verify } from './commands/verify.ts';

export const INSIDE: readonly Command[] = [
  verify,
  inspect,
  diff,
  repair,
  doctor,
  install,
  status,
  audit,
  reload,
  keysList,
  keysAdd,
  keysRotate,
  keysRemove,
  rollback,
  gc,
  uninstall,
  trustShow,
  trustUpdate,
  trustHostKey,
];
