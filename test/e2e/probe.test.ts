// SPDX-License-Identifier: Apache-2.0
/** `doctor --probe` on hosts that are islands and on one that is not, with the network and name server of a namespace. */
import { join } from 'node:path';
import { beforeAll, describe, expect, it } from 'vitest';
import type { Probed } from '../support/probe-child.ts';
import { repoRoot, runOk, tempDir } from '../support/workspace.ts';

async function hostThatIs(mode: 'alone' | 'linked'): Promise<Probed> {
  const child = [process.execPath, join(repoRoot, 'test/support/probe-child.ts'), mode, tempDir('probe')];
  return JSON.parse(await runOk('unshare', ['--net', '--mount', ...child])) as Probed;
}

describe('a host with loopback alone', () => {
  let host: Probed;
  beforeAll(async () => {
    host = await hostThatIs('alone');
  });

  it.each([
    ['reach 192.0.2.1:443', 'no answer: Network is unreachable'],
    ['reach [2001:db8::1]:443', /^no answer: (Network is unreachable|Cannot assign requested address)$/],
    ['name outside.test', 'nobody says what its address is'],
  ])('is said to be an island: %s', (name, detail) => {
    expect(host.checks[name]).toMatchObject({
      outcome: 'ok',
      detail: expect.stringMatching(detail) as string,
    });
    expect(host.checks).not.toHaveProperty('reach outside.test:80');
  });

  it('is not one where somebody answers, at an address of IPv6 as well', () => {
    const name = Object.keys(host.checks).find((check) => check.startsWith('reach [::1]:'));
    expect(host.checks[name!]).toMatchObject({
      outcome: 'failed',
      detail: expect.stringContaining('it is not isolated') as string,
    });
    expect(host.exit).toBe(20);
  });
});

describe('a host with a way out', () => {
  let host: Probed;
  beforeAll(async () => {
    host = await hostThatIs('linked');
  });

  it('sends no packet unless a probe is asked for, and the counter sees those of a probe', () => {
    expect(host.packets!.looking).toBe(0);
    expect(host.packets!.probing).toBeGreaterThan(0);
  });

  it('is told that it is not isolated, what that means and what to do', () => {
    expect(host.checks['reach 192.0.2.1:443']).toEqual({
      name: 'reach 192.0.2.1:443',
      outcome: 'failed',
      detail: 'this host reaches 192.0.2.1:443: it is not isolated',
      advice: expect.stringContaining('ip route get') as string,
    });
    expect(host.checks['reach outside.test:443']).toMatchObject({
      outcome: 'failed',
      detail: 'this host reaches outside.test:443 (192.0.2.1): it is not isolated',
    });
    expect(host.exit).toBe(20);
  });

  it('is warned of a name that somebody knows, and of a port that somebody refuses', () => {
    expect(host.checks['name outside.test']).toMatchObject({
      outcome: 'warning',
      detail: 'somebody says that its address is 192.0.2.1',
    });
    expect(host.checks['reach 192.0.2.1:80']).toMatchObject({
      outcome: 'warning',
      detail: '192.0.2.1 refuses port 80: packets get there, or to a firewall that answers for it',
    });
    expect(host.checks['name unknown.test']).toMatchObject({ outcome: 'ok' });
  });

  it('says nothing over the connections', () => {
    expect(host.seen).toEqual({ connections: 2, bytes: 0 });
  });
});
