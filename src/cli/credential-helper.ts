// SPDX-License-Identifier: Apache-2.0
import type { RunHelper } from '../build/sources/credentials.ts';
import { SealiftError } from '../errors.ts';
import { run } from '../install/host.ts';
import { dockerConfigFolder, wholeEnvironment, type Io } from './context.ts';

/** A helper may have to unlock a keychain, but nobody is there to answer a question for longer than this. */
const HELPER_MS = 30_000;

/**
 * Runs docker-credential-X as docker does (docker-credential-helpers, client/client.go): `get`, with the registry
 * on its stdin and the caller's environment, because helpers of desktops and clouds live on it. What it says may be a password, so none of it enters a message.
 */
export function runCredentialHelper({ env }: Pick<Io, 'env'>): RunHelper {
  const { PATH, HOME } = env;
  const seen = {
    ...wholeEnvironment(),
    ...(PATH === undefined ? {} : { PATH }),
    ...(HOME === undefined ? {} : { HOME }),
    DOCKER_CONFIG: dockerConfigFolder(env),
  };
  return async (program, registry) => {
    try {
      const options = { env: seen, timeoutMs: HELPER_MS, input: `${registry}\n` };
      const { code, stdout } = await run([program, 'get'], options);
      return { exitCode: code, stdout };
    } catch (cause) {
      const config = `${seen.DOCKER_CONFIG}/config.json`;
      const reason = cause instanceof SealiftError ? cause.message : `cannot run ${program}`;
      throw new SealiftError('UNAUTHORIZED', `no credentials for ${registry}: ${reason}`, {
        hint: `${config} names ${program}: put it on PATH, or take credsStore or credHelpers out of that file`,
        cause,
      });
    }
  };
}
