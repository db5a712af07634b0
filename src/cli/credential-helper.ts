// SPDX-License-Identifier: Apache-2.0
import type { RunHelper } from '../build/sources/credentials.ts';
import type { Io } from './context.ts';

/** What a helper says when it has nothing (docker-credential-helpers, credentials/error.go). */
const NOT_FOUND = { exitCode: 1, stdout: 'credentials not found in native keychain' };

/**
 * Stands in for docker-credential-X: `install/host.ts`, the only place that starts processes, cannot give a
 * process its stdin yet. The registry is asked without credentials, and the person is told why.
 */
export function runCredentialHelper({ emit }: Io): RunHelper {
  const told = new Set<string>();
  return async (program, registry) => {
    const message = `${program} is not asked: credentials for ${registry} are read from config.json only`;
    if (!told.has(program)) emit({ type: 'warning', code: 'CREDENTIAL_HELPER', message });
    told.add(program);
    return NOT_FOUND;
  };
}
