// SPDX-License-Identifier: Apache-2.0
/** `sealift` of the staging side: every command. */
import { ALL } from './all.ts';
import { main } from './process.ts';

await main(ALL);
