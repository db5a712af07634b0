// SPDX-License-Identifier: Apache-2.0
/** What a host remembers of installs, on a real engine: policy, time, versions, overrides, signed receipts. */
import { existsSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { tinyModel } from '../../fixtures/model.ts';
import { INSIDE } from '../../src/cli/inside.ts';
import { openBundle } from '../../src/bundle/open.ts';
import { applyPlan } from '../../src/install/apply.ts';
import { makeHostKey } from '../../src/install/host-key.ts';
import { overrideOf } from '../../src/install/override.ts';
import { planInstall, type Plan } from '../../src/install/plan.ts';
import { readReceipt, receiptSignature, type Receipt } from '../../src/install/receipt.ts';
import { readStatus } from '../../src/install/status.ts';
import { readTrustState } from '../../src/install/trust-state.ts';
import { uninstall } from '../../src/install/uninstall.ts';
import { run } from '../cli/harness.ts';
import { bundle, docker, failure, home, me, REF_ZSTD, rigImages, tampered, useEngine } from './image-rig.ts';
import { installer, makeBundle, policy, POLICY_TEXT, type RigBundle } from './rig.ts';

useEngine();

const installedText = (): string => readFileSync(home.path('installed.json'), 'utf8');
const newer = (): Promise<RigBundle> => makeBundle({ version: '1.1.0', images: rigImages() });
/** 1.0.0 once more, with other content. */
function other(): Promise<RigBundle> {
  const files = tinyModel();
  files.delete('README.md');
  return makeBundle({ images: rigImages(), model: files });
}

/** Installs as `install --allow-downgrade REASON` does. */
async function installDespite(
  rig: RigBundle,
  reason: string,
  meanwhile: (plan: Plan) => Promise<unknown> = async () => {},
): Promise<Receipt> {
  const before = (await home.installed()).get('demo');
  const opened = await openBundle(rig.path, { policy, now: new Date() });
  try {
    const override = overrideOf(opened, before, reason);
    const plan = await planInstall(opened, { ...me.input, ...(override && { override }) });
    await meanwhile(plan);
    return await applyPlan(plan, { emit: () => {} });
  } finally {
    await opened.close();
  }
}

/** Installs as `install` does: judged against what was installed when the bundle is opened. */
async function installPlainly(rig: RigBundle): Promise<Receipt> {
  const installed = await home.installed();
  const open = (): ReturnType<RigBundle['open']> =>
    openBundle(rig.path, { policy, now: new Date(), installed: (name) => installed.get(name) });
  return me.install({ ...rig, open });
}

describe('the memory against rollbacks', () => {
  it('refuses an older version, and other content under the same one', async () => {
    await installPlainly(await newer());
    const before = installedText();
    const error = await failure(installPlainly(bundle));
    expect(error).toMatchObject({ code: 'VERSION_REFUSED' });
    expect(installedText()).toBe(before);
    await uninstall(me.input);
    expect(await failure(installPlainly(bundle))).toMatchObject({ code: 'VERSION_REFUSED' });
    await installDespite(bundle, 'back');
    expect(await failure(installPlainly(await other()))).toMatchObject({ code: 'VERSION_REFUSED' });
  });

  it('is written only when everything was verified: an install that fails leaves it as it was', async () => {
    await me.install(bundle);
    const [before, state] = [installedText(), await readTrustState(home)];
    await docker('rmi', REF_ZSTD); // or its layers would not be read again
    expect(await failure(me.install(tampered(await newer())))).toMatchObject({ code: 'CONTENT_MISMATCH' });
    expect(installedText()).toBe(before);
    expect(await readTrustState(home)).toEqual(state);
  });
});

describe('an older version, for a reason', () => {
  it('is installed, and the receipt says what was refused and why', async () => {
    await me.install(await newer());
    const receipt = await installDespite(bundle, 'ticket 311: 1.1.0 answers wrongly');
    const override = {
      check: 'version',
      refused: 'demo 1.0.0 is older than 1.1.0, which is installed',
      reason: 'ticket 311: 1.1.0 answers wrongly',
    };
    expect(receipt.overrides).toEqual([override]);
    expect(await home.current()).toBe('demo-1.0.0');
    expect((await home.installed()).get('demo')?.version).toBe('1.0.0');
    expect((await readStatus(me.input)).drift).toEqual([]);

    // It is no override any more to install it again, and a receipt that is written anew does not forget it.
    await makeHostKey(home);
    const again = await installPlainly(bundle);
    expect([again.overrides, again.host]).toEqual([[override], { key: expect.any(String) as string }]);
    expect((await me.install(await newer())).overrides).toBeUndefined();
  });

  it('likewise other content under the same version', async () => {
    await me.install(bundle);
    const rig = await other();
    const receipt = await installDespite(rig, 'built again without the read-me');
    expect(receipt.overrides?.[0]?.refused).toBe('demo 1.0.0 is installed already, with other content');
    expect((await home.installed()).get('demo')?.digest).toBe(receipt.bundle.digest);
  });

  it('holds for what was installed when it was agreed to, and for nothing else', async () => {
    await me.install(bundle);
    const older = await makeBundle({ version: '0.9.0', images: rigImages() });
    const next = await newer();
    const error = await failure(installDespite(older, 'back', () => me.install(next)));
    expect(error).toMatchObject({
      code: 'VERSION_REFUSED',
      message: 'demo 0.9.0 is older than 1.1.0, which is installed',
    });
    expect(await home.current()).toBe('demo-1.1.0');
  });

  it('is nothing to agree to when nothing is refused', async () => {
    await me.install(bundle);
    expect((await installDespite(await newer(), 'for nothing')).overrides).toBeUndefined();
  });
});

describe('policy and time', () => {
  it('are remembered by the first install, and named in its receipt', async () => {
    const later = new Date('2030-01-01T00:00:00.500Z');
    const ahead = installer(home, me.input.socket, { now: () => later });
    const receipt = await ahead.install(bundle);
    expect(await readTrustState(home)).toEqual({
      policy: { version: 1, digest: policy.fingerprint },
      latestTime: new Date('2030-01-01T00:00:00Z'),
    });
    expect(readFileSync(home.path('trust/1.yaml'), 'utf8')).toBe(POLICY_TEXT);
    expect(receipt.policy).toEqual({ version: 1, digest: policy.fingerprint });
    expect(receipt.time?.clock).toBe(later.toISOString());
    await me.install(await newer()); // years before, by its clock
    expect((await readTrustState(home))?.latestTime).toEqual(new Date('2030-01-01T00:00:00Z'));
  });

  it('are shown before a person agrees: which policy a first install adopts', async () => {
    const flags = ['--dry-run', '--home', home.root, '--engine', me.input.socket];
    const plan = async (): Promise<string> => (await run(INSIDE, ['install', bundle.path, ...flags])).stdout;
    const row = `policy +version 1 +${policy.fingerprint}`;
    expect(await plan()).toMatch(new RegExp(`${row} +\\(this install adopts it`));
    await me.install(bundle);
    expect(await plan()).toMatch(new RegExp(`${row}$`, 'm'));
  });

  it('are not remembered by a plan, nor by an install that fails', async () => {
    const opened = await bundle.open();
    await me.plan(opened);
    await opened.close();
    await failure(me.install(tampered(bundle)));
    expect(existsSync(home.trustStateFile)).toBe(false);
  });

  it('that are replaced while a person is asked stop the install before it begins', async () => {
    const opened = await bundle.open();
    const plan = await me.plan(opened);
    writeFileSync(home.trustFile, `${POLICY_TEXT}# revised\n`);
    expect(await failure(applyPlan(plan, { emit: () => {} }))).toMatchObject({ code: 'HOST_CHANGED' });
    rmSync(home.trustFile);
    expect(await failure(applyPlan(plan, { emit: () => {} }))).toMatchObject({ code: 'HOST_CHANGED' });
    expect(existsSync(home.path('releases/demo-1.0.0'))).toBe(false);
    await opened.close();
  });

  it('a bundle from a clock that is ahead is said to be so, and moves the time', async () => {
    const past = installer(home, me.input.socket, { now: () => new Date('2026-11-20T00:00:00Z') });
    const opened = await openBundle(bundle.path, { policy, now: new Date('2026-11-20T00:00:00Z') });
    await applyPlan(await past.plan(opened), { emit: () => {} });
    await opened.close();
    expect((await readTrustState(home))?.latestTime).toEqual(new Date(bundle.inventory.created));
    const said = past.events.find((e) => e.type === 'check' && e.name === 'time');
    expect(said).toMatchObject({
      outcome: 'warning',
      detail: expect.stringContaining('2026-11-23') as string,
    });
  });
});

describe('a host with a key', () => {
  const signature = (): string => home.receiptSignatureFile('demo-1.0.0');
  const state = async (): Promise<string> =>
    (await receiptSignature(home, (await readReceipt(home, 'demo-1.0.0'))!)).state;

  it('signs its receipts, also those of before it had the key, and notices a change', async () => {
    await me.install(bundle);
    expect((await readStatus(me.input)).signature).toEqual({ state: 'none' });
    const { fingerprint } = await makeHostKey(home);
    expect(await readStatus(me.input)).toMatchObject({
      signature: { state: 'foreign' },
      drift: [expect.stringContaining('the same install, run again, signs it') as string],
    });
    await me.install(bundle);
    expect((await readStatus(me.input)).signature).toEqual({ state: 'signed', key: fingerprint });
    writeFileSync(signature(), readFileSync(signature(), 'utf8').replace('"sig":"M', '"sig":"N'));
    expect(await readStatus(me.input)).toMatchObject({
      signature: { state: 'wrong' },
      drift: [`the receipt is not what ${fingerprint} signed`],
    });
    await me.install(bundle); // as after a kill between the two files
    expect(await state()).toBe('signed');
    rmSync(signature());
    expect((await readStatus(me.input)).drift).toEqual([
      `the receipt has no signature of ${fingerprint}, which it names`,
    ]);
    await me.install(bundle);
    expect(await state()).toBe('signed');
    await uninstall(me.input);
    expect(existsSync(home.releaseFolder('demo-1.0.0'))).toBe(false);
  });

  it('that cannot be used is found before anything is changed', async () => {
    await makeHostKey(home);
    writeFileSync(home.hostKeyFile, 'rubbish');
    expect(await failure(me.install(bundle))).toMatchObject({ code: 'KEY_INVALID' });
    expect(existsSync(home.path('releases'))).toBe(false);
  });

  it('takes the signature back with the receipt when the install fails', async () => {
    await makeHostKey(home);
    const opened = await bundle.open();
    const plan = await me.plan(opened);
    const current = home.setCurrent.bind(home);
    home.setCurrent = async (release) => {
      if (release !== undefined) throw new Error('no');
      await current(release);
    };
    await failure(applyPlan(plan, { emit: () => {} }));
    await opened.close();
    expect(existsSync(home.releaseFolder('demo-1.0.0'))).toBe(false);
    expect((await home.installed()).size).toBe(0);
  });
});
