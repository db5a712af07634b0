// SPDX-License-Identifier: Apache-2.0
/** Which targets a probe takes, and what it makes of the words of the programs that try them; real networks are in test/e2e. */
import { chmodSync, existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { parseProbeTarget, probe } from '../../src/install/probe.ts';
import { isAlive, tempDir, waitFor } from '../support/workspace.ts';

describe('a target', () => {
  it.each([
    ['example.org', 'example.org', 443],
    ['example.org:80', 'example.org', 80],
    ['192.0.2.1', '192.0.2.1', 443],
    ['192.0.2.1:65535', '192.0.2.1', 65_535],
    ['[2001:db8::1]', '2001:db8::1', 443],
    ['[::1]:53', '::1', 53],
  ])('%s', (text, host, port) => {
    expect(parseProbeTarget(text)).toEqual({ host, port });
  });

  it.each([
    ['', 'a name or an address'],
    ['-x', 'a name or an address'],
    [':80', 'a name or an address'],
    ['a:0', 'a name or an address'],
    ['a:65536', 'a name or an address'],
    ['a:http', 'a name or an address'],
    ['a b', 'a name or an address'],
    ['$(reboot)', 'a name or an address'],
    ['a/../b', 'a name or an address'],
    ['https://a', 'a name or an address'],
    ['1.2.3', 'a name or an address'],
    ['[192.0.2.1]', 'a name or an address'],
    ['[::1', 'a name or an address'],
    ['2001:db8::1', "in brackets: --probe '[2001:db8::1]'"],
  ])('%j is none', (text, hint) => {
    expect(() => parseProbeTarget(text)).toThrow(
      expect.objectContaining({ code: 'USAGE', hint: expect.stringContaining(hint) as string }),
    );
  });
});

/** A PATH with programs that say this, and end with that. */
function programs(bodies: Record<string, string>): string {
  const dir = tempDir('probe-path');
  for (const [name, body] of Object.entries(bodies)) {
    writeFileSync(join(dir, name), `#!/bin/sh\n${body}\n`);
    chmodSync(join(dir, name), 0o755);
  }
  return dir;
}

const says = (words: string): string => `echo "bash: line 1: /dev/tcp/192.0.2.1/443: ${words}" >&2; exit 1`;

describe('what the programs say', () => {
  const address = { host: '192.0.2.1', port: 443 };

  it.each([
    ['Network is unreachable', 'ok', 'no answer: Network is unreachable'],
    ['No route to host', 'ok', 'no answer: No route to host'],
    ['Operation not permitted', 'ok', 'no answer: Operation not permitted'],
    [
      'Connection refused',
      'warning',
      '192.0.2.1 refuses port 443: packets get there, or to a firewall that answers for it',
    ],
    // A bash without /dev/tcp takes it for a file; that is not an island.
    ['No such file or directory', 'warning', 'this could not be tried: bash says: No such file or directory'],
  ])('%s', async (words, outcome, detail) => {
    expect(await probe(address, programs({ bash: says(words) }))).toEqual([
      expect.objectContaining({ check: 'reach 192.0.2.1:443', outcome, detail }),
    ]);
  });

  it('is not taken for an island when the programs do not start', async () => {
    const folder = programs({});
    mkdirSync(join(folder, 'bash'));
    expect(await probe(address, folder)).toMatchObject([
      { detail: 'this could not be tried: bash is not on PATH' },
    ]);
    const broken = programs({});
    for (const name of ['bash', 'getent']) {
      writeFileSync(join(broken, name), '#!/nonexistent\n');
      chmodSync(join(broken, name), 0o755);
    }
    expect(await probe(address, broken)).toMatchObject([
      { outcome: 'warning', detail: 'this could not be tried: bash does not start' },
    ]);
    expect(await probe({ host: 'a.test', port: 1 }, broken)).toMatchObject([
      { outcome: 'warning', detail: 'this could not be tried: getent does not start' },
    ]);
  });

  it('tries addresses of both families, however many there are of one', async () => {
    const list = [...Array.from({ length: 9 }, (_, i) => `2001:db8::${i + 1}`), '192.0.2.7'];
    const path = programs({
      getent: list.map((one) => `echo '${one} STREAM a.test'`).join('\n'),
      bash: `case "$*" in *" 192.0.2.7 443") exit 0 ;; esac; ${says('Network is unreachable')}`,
    });
    expect(await probe({ host: 'a.test', port: 443 }, path)).toMatchObject([
      { outcome: 'warning' },
      { outcome: 'failed', detail: 'this host reaches a.test:443 (192.0.2.7): it is not isolated' },
    ]);
  });

  it('is stopped with what it has started', async () => {
    const stop = new AbortController();
    const file = join(tempDir('pid'), 'pid');
    const path = programs({ bash: `echo $$ > ${file}; exec /bin/sleep 60` });
    const tried = probe(address, path, stop.signal);
    await waitFor(
      'bash',
      () => (existsSync(file) && readFileSync(file, 'utf8') !== '' ? true : undefined),
      {},
    );
    const pid = Number(readFileSync(file, 'utf8'));
    stop.abort();
    await expect(tried).rejects.toMatchObject({ code: 'INTERRUPTED' });
    await waitFor('its end', () => (isAlive(pid) ? undefined : true), {});
  });

  it('is not taken for an island when the programs are missing', async () => {
    expect(await probe(address, programs({}))).toMatchObject([
      { outcome: 'warning', detail: 'this could not be tried: bash is not on PATH' },
    ]);
    expect(await probe({ host: 'a.test', port: 1 }, programs({}))).toMatchObject([
      { check: 'name a.test', outcome: 'warning', detail: 'this could not be tried: getent is not on PATH' },
    ]);
  });

  it('is silence when a connection takes too long', async () => {
    const path = programs({ bash: 'exec /usr/bin/sleep 60' });
    expect(await probe(address, path)).toMatchObject([
      { outcome: 'ok', detail: 'no answer: silence for 5 s' },
    ]);
  });

  it('is a failure when one of several addresses answers, and no word of getent but addresses is tried', async () => {
    const getent =
      'printf "%s\\n" "2001:db8::7 STREAM a.test" "192.0.2.7 STREAM" "192.0.2.7 DGRAM" "-x STREAM"';
    const bash = `case "$*" in *" 192.0.2.7 80") exit 0 ;; esac; ${says('Network is unreachable')}`;
    const [name, reach] = await probe({ host: 'a.test', port: 80 }, programs({ getent, bash }));
    expect(name).toMatchObject({
      outcome: 'warning',
      detail: 'somebody says that its address is 2001:db8::7, 192.0.2.7',
    });
    expect(reach).toMatchObject({
      outcome: 'failed',
      detail: 'this host reaches a.test:80 (192.0.2.7): it is not isolated',
    });
  });
});
