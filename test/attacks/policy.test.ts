// SPDX-License-Identifier: Apache-2.0
/** Attacks on the decision who may sign, and on the memory of it. THREATS.md T6, T11, T25, T26. */
import { execFileSync } from 'node:child_process';
import { cpSync, existsSync, readFileSync, renameSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { open } from 'node:fs/promises';
import { join } from 'node:path';
import { beforeEach, describe, expect, it } from 'vitest';
import { INSIDE } from '../../src/cli/inside.ts';
import { Home } from '../../src/install/home.ts';
import { readTrustState, rememberTrust, writeTrustState } from '../../src/install/trust-state.ts';
import { replacePolicy } from '../../src/install/trust-update.ts';
import { digestOf } from '../../src/store/digest.ts';
import { parseTrustPolicy } from '../../src/trust/policy.ts';
import type { Rotation } from '../../src/trust/rotate.ts';
import { policyId } from '../../src/trust/state.ts';
import { documentOf, run, type Ran } from '../cli/harness.ts';
import { sampleBundle } from '../support/sample.ts';
import { interruptAtEach } from '../support/interrupted-update.ts';
import { tempDir } from '../support/workspace.ts';
import { policyText, signedBy, type Terms } from '../trust/helpers.ts';
import { alice, bob, carol, dave, OLD, OTHERS, rotate, text } from '../trust/rotation.ts';

const sample = await sampleBundle();
const bundle = await sample.write([
  { name: 'alice', key: alice.privateKey, publicPem: alice.pem },
  { name: 'bob', key: bob.privateKey, publicPem: bob.pem },
]);
let home: Home;
const put = (content: string): void => writeFileSync(home.trustFile, content);
const adopted = async (): Promise<unknown> => (await readTrustState(home))?.policy;

/** A host that has installed under OLD; no engine is needed for what it remembers. */
beforeEach(async () => {
  home = new Home(tempDir('policy-home'));
  put(OLD);
  await rememberTrust(home, parseTrustPolicy(OLD, 'trust.yaml'), [new Date('2026-11-20T00:00:00Z')]);
});

const cli = (...argv: string[]): Promise<Ran> => run(INSIDE, [...argv, '--home', home.root]);
const verify = (): Promise<Ran> => cli('verify', bundle);

async function signatureFiles(next: string, by: readonly Terms[]): Promise<string[]> {
  const dir = tempDir('signatures');
  writeFileSync(join(dir, 'new.yaml'), next);
  const flags: string[] = [];
  for (const who of by) {
    writeFileSync(join(dir, `${who.name}.json`), `${await signedBy(who, Buffer.from(next))}\n`);
    flags.push('--signature', join(dir, `${who.name}.json`));
  }
  return [join(dir, 'new.yaml'), ...flags];
}

describe('trust.yaml on the host', () => {
  it('is adopted by an install and not by a look: verify writes nothing', async () => {
    rmSync(home.trustStateFile);
    expect((await verify()).exit).toBe(0);
    expect((await cli('trust', 'show')).stdout).toContain('not adopted yet');
    expect(existsSync(home.trustStateFile)).toBe(false);
  });

  it('replaced by another one is refused by everything that relies on it', async () => {
    expect((await verify()).exit).toBe(0);
    put(OTHERS);
    const rotation = await signatureFiles(text([alice, dave], 3), [alice, bob, dave]);
    for (const argv of [
      ['verify', bundle],
      ['install', bundle, '--yes'],
      ['install', bundle, '--dry-run'],
      ['trust', 'update', ...rotation, '--yes'],
    ]) {
      const ran = await cli(...argv, '--json');
      expect([ran.exit, documentOf(ran)]).toMatchObject([14, { problem: { code: 'POLICY_CHANGED' } }]);
      expect(ran.stderr).toContain('trust/1.yaml');
    }
    expect((await cli('trust', 'show')).stdout).toContain('NOT THE ADOPTED ONE');
    cpSync(home.path('trust/1.yaml'), home.trustFile); // as the hint says
    expect((await verify()).exit).toBe(0);
  });

  it('that is gone is to be put back, not made up', async () => {
    rmSync(home.trustFile);
    const ran = await verify();
    expect([ran.exit, ran.stderr]).toEqual([2, expect.stringContaining('a copy is trust/1.yaml')]);
  });

  it('with one byte changed, were it in a comment, is another policy', async () => {
    put(`${OLD}#\n`);
    expect((await verify()).exit).toBe(14);
  });

  it('is not adopted anew because the state is damaged', async () => {
    for (const damage of ['', '{}', readFileSync(home.trustStateFile, 'utf8').slice(0, -9)]) {
      writeFileSync(home.trustStateFile, damage);
      const ran = await verify();
      expect([ran.exit, ran.stderr]).toEqual([1, expect.stringContaining('trust-state.json is damaged')]);
      expect(readFileSync(home.trustStateFile, 'utf8')).toBe(damage);
    }
  });

  it('is not adopted anew because the state lies behind a link that leads nowhere', async () => {
    const files = [home.trustStateFile, home.path('installed.json')];
    for (const file of files) {
      rmSync(file, { force: true });
      symlinkSync('/nowhere/at/all', file);
    }
    const ran = await verify();
    expect([ran.exit, ran.stderr]).toEqual([
      1,
      expect.stringContaining('a link to a file that is not there'),
    ]);
    await expect(home.installed()).rejects.toMatchObject({ code: 'IO_ERROR' });
  });

  it('is no policy that somebody swapped while `trust update` replaces it between two reads', async () => {
    const next = text([alice, bob, carol]);
    rmSync(home.trustFile);
    execFileSync('mkfifo', [home.trustFile]); // holds the first read open until both files are replaced
    const looking = verify();
    const reader = await open(home.trustFile, 'w');
    writeFileSync(home.path('next.yaml'), next);
    renameSync(home.path('next.yaml'), home.trustFile);
    const latestTime = new Date('2026-11-20T00:00:00Z');
    await writeTrustState(home, { policy: policyId(parseTrustPolicy(next, 'p')), latestTime });
    await reader.writeFile(OLD);
    await reader.close();
    const { exit, stdout } = await looking;
    expect([exit, stdout]).toEqual([0, expect.stringContaining('by policy version 2')]);
  });

  it('that cannot be replaced says what could not be done', async () => {
    const rotation = await signatureFiles(text([alice, bob, dave]), [alice, bob]);
    rmSync(home.trustFolder, { recursive: true });
    writeFileSync(home.trustFolder, ''); // where a folder must be
    const ran = await cli('trust', 'update', ...rotation, '--yes');
    expect([ran.exit, ran.stderr]).toEqual([1, expect.stringContaining('replacing the trust policy in ')]);
    expect((await verify()).exit).toBe(0);
  });

  it('that lost its keys is replaced by an administrator who removes the state, as the help says', async () => {
    put(text([dave, alice, bob]));
    rmSync(home.trustStateFile);
    expect((await verify()).exit).toBe(0);
  });
});

describe('an older bundle, properly signed', () => {
  const NEWER = { version: '1.3.0', digest: `sha256:${'f'.repeat(64)}` } as const;
  const OTHER = { version: '1.2.3', digest: `sha256:${'f'.repeat(64)}` } as const;
  const install = (...more: string[]): Promise<Ran> =>
    cli('install', bundle, '--yes', '--engine', home.path('no-engine.sock'), ...more);

  it.each([
    ['an older version', NEWER, 'sample 1.2.3 is older than 1.3.0, which is installed'],
    ['the same version with another digest', OTHER, 'sample 1.2.3 is installed already, with other content'],
  ])(
    'with %s is refused without a reason, and left out is that check alone with one',
    async (_, before, why) => {
      await home.setInstalled('sample', before);
      for (const how of [[], ['--dry-run']]) {
        const ran = await install(...how);
        expect([ran.exit, ran.stderr]).toEqual([14, expect.stringContaining(why)]);
      }
      for (const reason of ['', '   ', '...', 'x'.repeat(501), 'two\nlines', '\u202Egnorw']) {
        const ran = await install('--allow-downgrade', reason);
        expect([ran.exit, ran.stderr]).toEqual([2, expect.stringContaining('code: USAGE')]);
      }
      const ran = await install('--allow-downgrade', 'ticket 311');
      expect(ran.stderr).toContain(`version      left out: ${why} (ticket 311)`);
      expect(ran.stderr).toContain('looking at this host'); // that far it came
      expect((await home.installed()).get('sample')).toEqual(before);
    },
  );

  it('is refused by verify too, unless the policy is named: then no host is asked', async () => {
    await home.setInstalled('sample', NEWER);
    const ran = await verify();
    expect([ran.exit, ran.stderr]).toEqual([14, expect.stringContaining('is older than 1.3.0')]);
    const named = await run(INSIDE, ['verify', bundle, '--policy', home.trustFile]);
    expect([named.exit, named.stdout]).toEqual([
      0,
      expect.stringContaining('not compared with an installed'),
    ]);
  });

  it.each([
    [
      'is below the lowest version of the policy',
      "bundles: { sample: { minVersion: '1.2.4' } }\n",
      'VERSION_REFUSED',
    ],
    ['is revoked', `revoked: { bundles: ['${digestOf(sample.plan.sums)}'] }\n`, 'BUNDLE_REVOKED'],
  ])('is refused for any reason when it %s', async (_, rule, code) => {
    rmSync(home.trustStateFile);
    put(policyText([alice, bob], 2, rule, 1));
    await home.setInstalled('sample', NEWER);
    const ran = await install('--allow-downgrade', 'ticket 311');
    expect([ran.exit, ran.stderr]).toEqual([14, expect.stringContaining(`code: ${code}`)]);
  });
});

describe('the clock set back', () => {
  const EXPIRING = policyText([alice, { ...bob, notAfter: '2026-12-01T00:00:00Z' }], 2, '', 1);

  it('makes no expired key valid again', async () => {
    rmSync(home.trustStateFile);
    put(EXPIRING);
    const policy = parseTrustPolicy(EXPIRING, 'trust.yaml');
    const back = new Date('2026-11-25T00:00:00Z');
    const at = (now: Date): Promise<Ran> => run(INSIDE, ['verify', bundle, '--home', home.root], { now });
    expect((await at(back)).exit).toBe(0);
    await rememberTrust(home, policy, [new Date('2027-01-02T03:04:05Z')]);
    const ran = await at(back);
    expect([ran.exit, ran.stderr]).toEqual([11, expect.stringContaining('expired')]);
    expect(ran.stderr).toMatch(
      /warning: the clock of this host says 2026-11-25T00:00:00Z.* seen 2027-01-02T03:04:05Z/,
    );
    await rememberTrust(home, policy, [back]);
    expect((await readTrustState(home))?.latestTime).toEqual(new Date('2027-01-02T03:04:05Z'));
  });

  it('is told apart from the time that counted, in the evidence of good and bad', async () => {
    await rememberTrust(home, parseTrustPolicy(OLD, 'trust.yaml'), [new Date('2027-01-02T03:04:05Z')]);
    const evidence = {
      policy: { version: 1, digest: parseTrustPolicy(OLD, 'trust.yaml').fingerprint },
      time: { clock: '2020-01-01T00:00:00.000Z', judged: '2027-01-02T03:04:05.000Z' },
    };
    const now = new Date('2020-01-01T00:00:00Z');
    for (const [version, verified] of [
      ['1.2.2', true],
      ['1.2.4', false],
    ] as const) {
      await home.setInstalled('sample', { version, digest: `sha256:${'f'.repeat(64)}` });
      const ran = await run(INSIDE, ['verify', bundle, '--home', home.root, '--json'], { now });
      expect(documentOf(ran)).toMatchObject({ verified, ...evidence });
    }
  });

  it('does not matter for a policy that is named: no host goes by it', async () => {
    const file = join(tempDir('named'), 'trust.yaml');
    writeFileSync(file, EXPIRING);
    const now = new Date('2026-11-10T00:00:00Z');
    const ran = await run(INSIDE, ['verify', bundle, '--policy', file], { now });
    expect([ran.exit, ran.stderr]).toEqual([0, expect.not.stringContaining('clock')]);
  });
});

describe('trust update', () => {
  /** What the command does after the question. */
  const replace = (rotation: Rotation, clock = '2026-11-23T12:00:00Z'): Promise<void> =>
    replacePolicy(home, {
      old: parseTrustPolicy(OLD, 'trust.yaml'),
      rotation,
      newBytes: Buffer.from(OTHERS),
      signatures: [{ name: 'a.json', json: '{}' }],
      clock: new Date(clock),
    });

  it('replaces policy and state, and keeps the chain', async () => {
    const args = await signatureFiles(OTHERS, [alice, bob]);
    expect((await cli('trust', 'update', ...args, '--dry-run')).stdout).toContain('+ signer');
    expect(await adopted()).toMatchObject({ version: 1 });
    const ran = await cli('trust', 'update', ...args, '--yes');
    expect([ran.exit, ran.stdout]).toEqual([0, expect.stringMatching(/^adopted {2}policy 2 /)]);
    expect(readFileSync(home.trustFile, 'utf8')).toBe(OTHERS);
    expect(await readTrustState(home)).toEqual({
      policy: { version: 2, digest: parseTrustPolicy(OTHERS, 'x').fingerprint },
      latestTime: new Date('2027-01-02T03:04:05Z'),
    });
    expect(readFileSync(home.path('trust/1.yaml'), 'utf8')).toBe(OLD);
    expect(readFileSync(home.path('trust/2.yaml'), 'utf8')).toBe(OTHERS);
    for (const i of [0, 1])
      expect(readFileSync(home.path(`trust/2.${i}.sigstore.json`), 'utf8')).toContain('messageSignature');
    const again = documentOf(await cli('trust', 'update', ...args, '--yes', '--json'));
    expect(again).toMatchObject({ adopted: true, changed: false, to: 2 });
    put(OLD); // and the way back is closed
    expect((await verify()).exit).toBe(14);
  });

  it('asks, and no is no', async () => {
    const args = await signatureFiles(OTHERS, [alice, bob]);
    expect((await cli('trust', 'update', ...args)).exit).toBe(2);
    const ran = await run(INSIDE, ['trust', 'update', ...args, '--home', home.root], { typed: 'n\r' });
    expect([ran.exit, ran.stderr]).toEqual([1, expect.stringMatching(/signed by, old policy +alice, bob/)]);
    expect(await adopted()).toMatchObject({ version: 1 });
  });

  it('gives a key that has expired no vote because the clock is set back', async () => {
    rmSync(home.trustStateFile);
    const expiring = policyText([alice, { ...bob, notAfter: '2026-12-01T00:00:00Z' }, carol], 2, '', 1);
    put(expiring);
    await rememberTrust(home, parseTrustPolicy(expiring, 'trust.yaml'), [new Date('2027-01-02T00:00:00Z')]);
    const args = ['trust', 'update', ...(await signatureFiles(OTHERS, [alice, bob])), '--yes'];
    const back = { now: new Date('2026-11-25T00:00:00Z') };
    const ran = await run(INSIDE, [...args, '--home', home.root], back);
    expect([ran.exit, ran.stderr]).toEqual([11, expect.stringContaining('by the old policy')]);
    expect(readFileSync(home.trustFile, 'utf8')).toBe(expiring);
  });

  it('does not turn the time back, and moves it on by its clock and by what is stamped', async () => {
    const rotation = await rotate({ old: OLD, next: OTHERS, by: [alice, bob] });
    const latestAfter = async (clock: string, ...stamps: string[]): Promise<string | undefined> => {
      put(OLD);
      await writeTrustState(home, {
        policy: policyId(parseTrustPolicy(OLD, 'trust.yaml')),
        latestTime: new Date('2026-11-20T00:00:00Z'),
      });
      const accepted = stamps.map((time) => ({ ...rotation.byNew.accepted[0]!, signedAt: new Date(time) }));
      await replace({ ...rotation, byNew: { ...rotation.byNew, accepted } }, clock);
      return (await readTrustState(home))?.latestTime.toISOString().slice(0, 10);
    };
    expect(await latestAfter('2020-01-01T00:00:00Z')).toBe('2026-11-20');
    expect(await latestAfter('2026-11-21T00:00:00Z')).toBe('2026-11-21');
    expect(await latestAfter('2026-11-21T00:00:00Z', '2026-11-22T00:00:00Z')).toBe('2026-11-22');
  });

  it('replaces no other policy than the one that was shown', async () => {
    const rotation = await rotate({ old: OLD, next: OTHERS, by: [alice, bob] });
    put(`${OLD}# revised\n`);
    await expect(replace(rotation)).rejects.toMatchObject({ code: 'HOST_CHANGED' });
    expect(readFileSync(home.trustFile, 'utf8')).toBe(`${OLD}# revised\n`);
  });

  it('replaces none that the host has not adopted, though it is the one that was shown', async () => {
    const rotation = await rotate({ old: OLD, next: OTHERS, by: [alice, bob] });
    await rememberTrust(home, parseTrustPolicy(text([carol], 2, 1), 'trust.yaml'), []);
    await expect(replace(rotation)).rejects.toMatchObject({ code: 'POLICY_CHANGED' });
    expect(readFileSync(home.trustFile, 'utf8')).toBe(OLD);
  });

  it('keeps the signatures that came with it, and none of an attempt before', async () => {
    for (const i of [0, 7]) writeFileSync(home.path(`trust/2.${i}.sigstore.json`), 'of a killed update');
    await replace(await rotate({ old: OLD, next: OTHERS, by: [alice, bob] }));
    expect(existsSync(home.path('trust/2.7.sigstore.json'))).toBe(false);
    expect(readFileSync(home.path('trust/2.0.sigstore.json'), 'utf8')).toBe('{}\n');
  });

  it('says that what it revokes goes on running here', async () => {
    const digest = `sha256:${'e'.repeat(64)}` as const;
    await home.setInstalled('sample', { version: '1.2.3', digest });
    const next = text([alice, bob], 2, 2, `revoked: { bundles: ['${digest}'] }\n`);
    const ran = await cli('trust', 'update', ...(await signatureFiles(next, [alice, bob])), '--dry-run');
    expect([ran.exit, ran.stderr]).toEqual([0, expect.stringContaining('revokes sample 1.2.3')]);
  });

  it('needs a signature', async () => {
    const ran = await cli('trust', 'update', (await signatureFiles(OTHERS, []))[0]!, '--yes');
    expect([ran.exit, ran.stderr]).toEqual([2, expect.stringContaining('--signature')]);
  });

  it('interrupted at each write ends with the old policy or the new one, and goes on', async () => {
    const args = await signatureFiles(OTHERS, [alice, bob]);
    const seen = await interruptAtEach({ home, before: OLD, after: OTHERS, args }, 'rename', 'signal=KILL');
    expect(seen).toEqual(new Set(['old', 'new'])); // test/e2e/durable has the other calls, and failing disks
  }, 120_000);
});
