// SPDX-License-Identifier: Apache-2.0
/** Attacks on the decision who may sign, and on the memory of it. THREATS.md T6, T11, T25, T26. */
import { execFileSync } from 'node:child_process';
import { cpSync, existsSync, readFileSync, renameSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { open } from 'node:fs/promises';
import { join } from 'node:path';
import { beforeEach, describe, expect, it } from 'vitest';
import { INSIDE } from '../../src/cli/inside.ts';
import { SealiftError } from '../../src/errors.ts';
import { Home } from '../../src/install/home.ts';
import { readTrustState, rememberTrust, writeTrustState } from '../../src/install/trust-state.ts';
import { digestOf } from '../../src/store/digest.ts';
import { parseTrustPolicy } from '../../src/trust/policy.ts';
import { judgeRotation, type Rotation } from '../../src/trust/rotate.ts';
import { policyId } from '../../src/trust/state.ts';
import { documentOf, run, type Ran } from '../cli/harness.ts';
import { sampleBundle } from '../support/sample.ts';
import { interruptAtEach } from '../support/interrupted-update.ts';
import { tempDir } from '../support/workspace.ts';
import { person, policyText, refusalOf, signedBy, type Terms } from '../trust/helpers.ts';

const alice = person('alice');
const bob = person('bob');
const carol = person('carol');
const dave = person('dave');
const NOW = new Date('2026-11-23T12:00:00Z');

/** The host's policy: two of alice, bob and carol. */
const OLD = policyText([alice, bob, carol], 2, '', 1);
const text = (people: readonly Terms[], version = 2, threshold = 2, rest = ''): string =>
  policyText(people, threshold, rest, version);

interface Attempt {
  old?: string;
  next: string;
  by: readonly Terms[];
  /** What they sign, when it is not the new policy. */
  over?: string;
  now?: Date;
}

async function rotate({ old = OLD, next, by, over = next, now = NOW }: Attempt): Promise<Rotation> {
  const signatures = await Promise.all(
    by.map(async (who) => ({ name: `${who.name}.json`, json: await signedBy(who, Buffer.from(over)) })),
  );
  return judgeRotation({
    old: parseTrustPolicy(old, 'trust.yaml'),
    bytes: Buffer.from(next),
    file: 'new.yaml',
    signatures,
    now,
  });
}

const refused = (attempt: Attempt): Promise<SealiftError> =>
  rotate(attempt).then(
    () => Promise.reject(new Error('it was accepted')),
    (error: unknown) => (error instanceof SealiftError ? error : Promise.reject(error as Error)),
  );

const OTHERS = text([alice, bob, dave]);

describe('a new policy', () => {
  it('is taken when two of the old and two of the new have signed it', async () => {
    const { policy, byOld, byNew } = await rotate({ next: OTHERS, by: [alice, bob] });
    expect(policy.version).toBe(2);
    for (const verdict of [byOld, byNew])
      expect(verdict.accepted.map(({ signer }) => signer)).toEqual(['alice', 'bob']);
  });

  it('may name all new people, when both sides sign', async () => {
    const [eve, frank] = [person('eve'), person('frank')];
    const { byOld, byNew } = await rotate({ next: text([eve, frank]), by: [carol, bob, eve, frank] });
    expect(byOld.accepted.map(({ signer }) => signer)).toEqual(['carol', 'bob']);
    expect(byNew.accepted.map(({ signer }) => signer)).toEqual(['eve', 'frank']);
  });

  it.each([
    ['skipped a number', 3, /has version 3, and the one after that of this host is 2$/],
    ['an older number', 1, /has version 1, and this host is at version 2 already$/, 2],
    ['other content under the same number', 1, /has version 1, as the policy of this host, with other/],
    ['a number that skips all of them', Number.MAX_SAFE_INTEGER, /is 2$/],
  ])('with %s is refused, whoever signed', async (_, version, message, before = 1) => {
    const error = await refused({
      old: policyText([alice, bob, carol], 2, '', before),
      next: text([alice, bob, dave], version),
      by: [alice, bob, carol, dave],
    });
    expect(error).toMatchObject({ code: 'POLICY_REFUSED', exitCode: 14 });
    expect(error.message).toMatch(message);
  });

  it('signed only by the old keys is refused', async () => {
    const error = await refused({ next: text([alice, dave, person('eve')]), by: [bob, carol] });
    expect(error.code).toBe('UNTRUSTED_SIGNER');
    expect(error.message).toMatch(/^by the new policy \(version 2\), new\.yaml is signed, but by nobody/);
  });

  it('signed only by the new keys is refused', async () => {
    const error = await refused({ next: text([dave, person('eve')], 2, 1), by: [dave] });
    expect(error.code).toBe('UNTRUSTED_SIGNER');
    expect(error.message).toMatch(/^by the old policy \(version 1\), new\.yaml is signed, but by nobody/);
  });

  it.each([
    ['old', text([alice, dave]), [alice, dave]],
    ['new', text([alice, dave]), [alice, bob]],
  ] as const)('needs the whole threshold of the %s policy', async (which, next, by) => {
    const error = await refused({ next, by });
    expect(error.code).toBe('THRESHOLD_NOT_MET');
    expect(error.message).toMatch(
      new RegExp(`^by the ${which} policy \\(.*\\), new\\.yaml has 1 signature that counts`),
    );
    expect(error.details.map(([label]) => label)).toContain('alice.json');
  });

  it('counts one signer in both lists once in each of them', async () => {
    const error = await refused({ next: text([alice, bob]), by: [alice, alice] });
    expect(error).toMatchObject({ code: 'THRESHOLD_NOT_MET' });
    expect(error.message).toContain('by the old policy');
    const once = await rotate({ old: policyText([alice], 1, '', 1), next: text([alice], 2, 1), by: [alice] });
    expect([once.byOld.accepted.length, once.byNew.accepted.length]).toEqual([1, 1]);
  });

  it('with signatures over another policy of the same people is refused', async () => {
    const error = await refused({ next: OTHERS, by: [alice, bob], over: `${OTHERS}# harmless\n` });
    expect(error).toMatchObject({ code: 'BAD_SIGNATURE' });
  });

  it('gets no vote of a key that the old policy has revoked, or that has expired by it', async () => {
    const revoked = policyText([alice, bob, carol], 2, `revoked: { keys: ['${printOf(bob)}'] }\n`, 1);
    expect(await refused({ old: revoked, next: OTHERS, by: [alice, bob] })).toMatchObject({
      code: 'THRESHOLD_NOT_MET',
    });
    const expired = policyText([alice, { ...bob, notAfter: '2026-11-01T00:00:00Z' }, carol], 2, '', 1);
    expect(await refused({ old: expired, next: OTHERS, by: [alice, bob] })).toMatchObject({
      code: 'THRESHOLD_NOT_MET',
    });
    await rotate({ old: expired, next: OTHERS, by: [alice, carol, bob] }); // bob is in time by the new one
  });

  it('that revokes its own signers, or whose signers are not in time yet, locks nobody out', async () => {
    const revoked = text([alice, bob, dave], 2, 2, `revoked: { keys: ['${printOf(bob)}'] }\n`);
    const error = await refused({ next: revoked, by: [alice, bob] });
    expect(error.message).toContain('by the new policy');
    const later = text([alice, { ...bob, notBefore: '2027-01-01T00:00:00Z' }]);
    expect((await refused({ next: later, by: [alice, bob] })).message).toContain('by the new policy');
  });

  it('that is not text in one reading is refused', () => {
    const error = refusalOf(() =>
      judgeRotation({
        old: parseTrustPolicy(OLD, 'trust.yaml'),
        bytes: Buffer.concat([Buffer.from(`${OTHERS}# `), Buffer.from([0xff])]),
        file: 'new.yaml',
        signatures: [],
        now: NOW,
      }),
    );
    expect(error.code).toBe('POLICY_INVALID');
  });
});

const printOf = (who: Terms): string => parseTrustPolicy(policyText([who]), 'p').signers[0]!.fingerprint!;

// ---- on a host ----

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

  it('does not matter for a policy that is named: no host goes by it', async () => {
    const file = join(tempDir('named'), 'trust.yaml');
    writeFileSync(file, EXPIRING);
    const now = new Date('2026-11-10T00:00:00Z');
    const ran = await run(INSIDE, ['verify', bundle, '--policy', file], { now });
    expect([ran.exit, ran.stderr]).toEqual([0, expect.not.stringContaining('clock')]);
  });
});

describe('trust update', () => {
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
