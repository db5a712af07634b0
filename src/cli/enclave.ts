// SPDX-License-Identifier: Apache-2.0
/**
 * `sealift` of the enclave: only commands of the inside. What it is made of is checked by
 * test/architecture.test.ts: no sources, no signing of bundles, no network client.
 */
import { INSIDE } from './inside.ts';
import { main } from './process.ts';

await main(INSIDE);
