// SPDX-License-Identifier: Apache-2.0
/**
 * Who signed, by certificate, for signatures of makers: what trust/identity.ts proves, asked for one name. A
 * certificate that the trusted root does not vouch for is somebody else's; anything else that is wrong is an alarm.
 */
import { bundleFromJSON } from '@sigstore/bundle';
import { SealiftError } from '../../errors.ts';
import {
  parseTrustedRoot,
  StrangersCertificate,
  type Identity,
  type SigstoreTrust,
} from '../../trust/identity.ts';

/** Whom the manifest names (its `identity` is the subject), and the trusted root by which that is judged. */
export interface AskedIdentity extends Identity {
  trust: SigstoreTrust;
}

/**
 * Reads a trusted_root.json.
 * @throws {SealiftError} MANIFEST_INVALID
 */
export function readTrustedRoot(bytes: Uint8Array, file: string): SigstoreTrust {
  try {
    return parseTrustedRoot(new TextDecoder('utf-8', { fatal: true }).decode(bytes));
  } catch (cause) {
    throw new SealiftError('MANIFEST_INVALID', `${file} is not a trusted_root.json of Sigstore`, {
      hint: 'it needs a certificate authority, a log and a CT log; `cosign trusted-root create` writes one',
      cause,
    });
  }
}

/**
 * Verifies a Sigstore bundle and says whose it is.
 * @param artifact what was signed, when the bundle does not hold it
 * @returns undefined when no authority of the trusted root vouches for its certificate
 * @throws {Error} of any kind when anything else about it does not verify
 */
export function identify(trust: SigstoreTrust, json: unknown, artifact?: Uint8Array): Identity | undefined {
  const bundle = bundleFromJSON(json);
  try {
    return trust(bundle, artifact).identity;
  } catch (error) {
    if (error instanceof StrangersCertificate) return undefined;
    throw error;
  }
}
