// SPDX-License-Identifier: Apache-2.0
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it, vi } from 'vitest';
import { Credentials } from '../../src/build/sources/credentials.ts';
import { runCredentialHelper } from '../../src/cli/credential-helper.ts';
import { makeDir, tempDir } from '../support/workspace.ts';

/** A folder for PATH with `docker-credential-fake`, a shell script. */
function helperFolder(script: string): string {
  const folder = tempDir('helper');
  writeFileSync(join(folder, 'docker-credential-fake'), `#!/bin/sh\n${script}\n`, { mode: 0o755 });
  return folder;
}

/** Credentials as `lock` and `build` make them, with the helper for every registry. */
function credentials(path: string): { of: Credentials; config: string } {
  const config = makeDir(tempDir('docker'), 'config');
  const file = join(config, 'config.json');
  writeFileSync(file, JSON.stringify({ credsStore: 'fake' }));
  const env = { PATH: `${path}:/usr/bin:/bin`, HOME: '/nowhere', DOCKER_CONFIG: config };
  return { of: new Credentials({ configFile: file, runHelper: runCredentialHelper({ env }) }), config };
}

describe('a credential helper on PATH', () => {
  it('gets the registry as a line on stdin, and the environment of its caller', async () => {
    const folder = helperFolder(
      [
        'read -r registry || exit 3',
        `printf '%s\\n' "$1" "$registry" "$HOME" "$DOCKER_CONFIG" "$DBUS_SESSION_BUS_ADDRESS" > "\${0%/*}/seen"`,
        `echo '{"ServerURL":"x","Username":"carrier","Secret":"open-sesame"}'`,
      ].join('\n'),
    );
    vi.stubEnv('DBUS_SESSION_BUS_ADDRESS', 'unix:path=/run/bus');
    const { of, config } = credentials(folder);
    expect(await of.forRegistry('registry.example:5000')).toEqual({
      kind: 'password',
      username: 'carrier',
      password: 'open-sesame',
    });
    vi.unstubAllEnvs();
    expect(readFileSync(join(folder, 'seen'), 'utf8').split('\n')).toEqual([
      'get',
      'registry.example:5000',
      '/nowhere',
      config,
      'unix:path=/run/bus',
      '',
    ]);
  });

  it('that has none is no failure', async () => {
    const folder = helperFolder('cat > /dev/null; echo "credentials not found in native keychain"; exit 1');
    expect(await credentials(folder).of.forRegistry('r.example')).toBeUndefined();
  });

  it('that does not read its stdin is no failure', async () => {
    const folder = helperFolder(`exec <&-; echo '{"Username":"<token>","Secret":"refresh"}'`);
    expect(await credentials(folder).of.forRegistry('r.example')).toEqual({
      kind: 'identity-token',
      token: 'refresh',
    });
  });

  it.each([
    ['fails', 'echo "open-sesame is locked" >&2; exit 1', 'echo r.example | docker-credential-fake get'],
    ['answers with something else', 'echo open-sesame', 'echo r.example | docker-credential-fake get'],
  ])('that %s is named, and what it said is not', async (_, script, hint) => {
    const error: unknown = await credentials(helperFolder(script))
      .of.forRegistry('r.example')
      .catch((e) => e);
    expect(error).toMatchObject({ code: 'UNAUTHORIZED' });
    expect(JSON.stringify(error) + String(error)).not.toContain('open-sesame');
    expect((error as { hint: string }).hint).toContain(hint);
  });

  it('that is not there says what to do', async () => {
    const error: unknown = await credentials(tempDir('empty'))
      .of.forRegistry('r.example')
      .catch((e) => e);
    expect(error).toMatchObject({ code: 'UNAUTHORIZED' });
    expect(String(error)).toContain('docker-credential-fake');
    expect((error as { hint: string }).hint).toContain('credsStore');
  });
});
