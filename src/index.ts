// SPDX-License-Identifier: Apache-2.0
/** The public API: what other programs need to make, read and judge bundles. Everything else may change. */
export { inspectBundle, type Inspection } from './audit/inspect.ts';
export { buildBundle } from './build/build.ts';
export { parseLock, resolveLock, type Lock } from './build/lock.ts';
export { parseManifest, type Manifest } from './build/manifest.ts';
export type { Inventory } from './bundle/inventory.ts';
export { openBundle, type OpenOptions, type VerifiedBundle } from './bundle/open.ts';
export { ERRORS, EXIT_CODES, SealiftError, type ErrorCode } from './errors.ts';
export type { Emit, SealiftEvent } from './events.ts';
export { Store } from './store/store.ts';
export { parseTrustPolicy, type TrustPolicy } from './trust/policy.ts';
export { loadPrivateKey } from './trust/private-keys.ts';
export { keySigner, rawSigner, type Signer } from './trust/sign.ts';
export { VERSION } from './version.ts';
