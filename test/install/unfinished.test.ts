// SPDX-License-Identifier: Apache-2.0
/** Installs that are killed, stopped, broken off or overtaken by another one, on a real engine. */
import { spawn } from 'node:child_process';
import { existsSync, mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { describe, expect, it } from 'vitest';
import { tinyModel } from '../../fixtures/model.ts';
import { applyPlan } from '../../src/install/apply.ts';
import { readJournal } from '../../src/install/journal.ts';
import { uninstall } from '../../src/install/uninstall.ts';
import { composePath } from '../support/docker.ts';
import {
  bundle,
  docker,
  engine,
  expectNothingLeft,
  failure,
  home,
  me,
  placed,
  REF,
  REF_ZSTD,
  tags,
  tampered,
  useEngine,
} from './image-rig.ts';
import { makeBundle, POLICY_TEXT, type RigBundle } from './rig.ts';

useEngine();

/** Runs an install in a process of its own, to be killed. */
const CHILD = `
  import { openBundle } from ${JSON.stringify(join(import.meta.dirname, '../../src/bundle/open.ts'))};
  import { parseTrustPolicy } from ${JSON.stringify(join(import.meta.dirname, '../../src/trust/policy.ts'))};
  import { Home } from ${JSON.stringify(join(import.meta.dirname, '../../src/install/home.ts'))};
  import { planInstall } from ${JSON.stringify(join(import.meta.dirname, '../../src/install/plan.ts'))};
  import { applyPlan } from ${JSON.stringify(join(import.meta.dirname, '../../src/install/apply.ts'))};
  const [path, root, socket, compose, policy] = process.argv.slice(1);
  const bundle = await openBundle(path, { policy: parseTrustPolicy(policy, 'trust.yaml'), now: new Date() });
  const input = { home: new Home(root), socket, path: process.env.PATH, compose, now: () => new Date() };
  process.stdout.write('ready\\n');
  await applyPlan(await planInstall(bundle, input), { emit: () => {} });
`;

async function killAfter(ms: number): Promise<boolean> {
  const child = spawn(
    process.execPath,
    ['--input-type=module', '-e', CHILD, bundle.path, home.root, engine.socket, composePath()!, POLICY_TEXT],
    {
      stdio: ['ignore', 'pipe', 'inherit'],
    },
  );
  const ended = new Promise<NodeJS.Signals | null>((done) => child.once('exit', (_, signal) => done(signal)));
  await new Promise((done) => child.stdout.once('data', done));
  await Promise.race([sleep(ms), ended]);
  child.kill('SIGKILL');
  return (await ended) === 'SIGKILL';
}

describe('a plan that was made before the host changed', () => {
  const other = (version: string): Promise<RigBundle> => makeBundle({ name: 'other', version, images: [] });

  /** Plans, lets something happen, and applies. */
  async function late(rig: RigBundle, meanwhile: () => Promise<unknown>): Promise<Error & { code?: string }> {
    const opened = await rig.open();
    try {
      const plan = await me.plan(opened);
      await meanwhile();
      return await failure(applyPlan(plan, { emit: () => {} }));
    } finally {
      await opened.close();
    }
  }

  it('brings no older version in', async () => {
    const newer = await other('1.2.0');
    const error = await late(await other('1.1.0'), () => me.install(newer));
    expect(error).toMatchObject({ code: 'VERSION_REFUSED' });
    expect((await home.installed()).get('other')?.version).toBe('1.2.0');
    expect(await home.current()).toBe('other-1.2.0');
  });

  it('does nothing that was not shown', async () => {
    await me.install(bundle);
    const error = await late(bundle, () => docker('rmi', REF));
    expect(error).toMatchObject({ code: 'HOST_CHANGED', hint: expect.stringContaining('again') as string });
    expect(await tags()).toEqual([REF_ZSTD]);
  });

  it('takes back no unfinished install that it did not name', async () => {
    const error = await late(await other('1.0.0'), () => interrupted(bundle));
    expect(error).toMatchObject({
      code: 'HOST_CHANGED',
      message: expect.stringContaining('demo-1.0.0') as string,
    });
    expect((await readJournal(home))?.release).toBe('demo-1.0.0');
    const opened = await (await other('1.0.0')).open();
    expect((await me.plan(opened)).takesBack).toBe('demo-1.0.0');
    await opened.close();
  });

  it('takes nothing back under another policy than the one that it was made by', async () => {
    await interrupted(bundle);
    const replace = async (): Promise<void> => writeFileSync(home.trustFile, `${POLICY_TEXT}# revised\n`);
    expect(await late(await other('1.0.0'), replace)).toMatchObject({ code: 'HOST_CHANGED' });
    expect((await readJournal(home))?.release).toBe('demo-1.0.0');
  });
});

/** Stops an install when its first image is loaded. */
async function interrupted(rig: RigBundle): Promise<void> {
  const controller = new AbortController();
  const opened = await rig.open();
  const emit = (event: { type: string; id?: string }): void => {
    if (event.type === 'item-end' && event.id?.startsWith('image:')) controller.abort();
  };
  const plan = await me.plan(opened);
  const error = await failure(applyPlan(plan, { emit, signal: controller.signal }));
  expect(error).toMatchObject({ code: 'INTERRUPTED' });
  await opened.close();
}

describe('an unfinished install', () => {
  it('is all that uninstall takes back when no release is named', async () => {
    await me.install(await makeBundle({ name: 'other', images: [], model: tinyModel({ seed: 9 }) }));
    await interrupted(bundle);
    const report = await uninstall(me.input);
    expect(report).toMatchObject({ takenBack: 'demo-1.0.0', release: undefined, removed: [] });
    expect(await home.current()).toBe('other-1.0.0');
    expect(await home.releases()).toEqual(['other-1.0.0']);
    expect(await tags()).toEqual([]);
    await expect(uninstall({ ...me.input, unfinishedOnly: true })).rejects.toMatchObject({
      code: 'NOT_INSTALLED',
    });
    expect(await home.current()).toBe('other-1.0.0');
  });

  it('stays as it is when another release is to be removed, and so does that one', async () => {
    await me.install(await makeBundle({ name: 'other', images: [], model: tinyModel({ seed: 9 }) }));
    await interrupted(bundle);
    const before = await readJournal(home);
    for (const release of ['other-1.0.0', 'nobody-1.0.0'])
      await expect(uninstall({ ...me.input, release })).rejects.toMatchObject({
        code: 'HOST_CHANGED',
        message: 'an install of demo-1.0.0 is unfinished',
        hint: expect.stringContaining('sealift uninstall') as string,
      });
    expect(await readJournal(home)).toEqual(before);
    expect(await home.current()).toBe('other-1.0.0');
    expect(await tags()).toEqual([REF]);
  });

  it('is taken back when it is the release that is named', async () => {
    await interrupted(bundle);
    expect(await uninstall({ ...me.input, release: 'demo-1.0.0' })).toMatchObject({
      takenBack: 'demo-1.0.0',
      release: undefined,
    });
    expect(await readJournal(home)).toBeUndefined();
    await expectNothingLeft();
  });

  it('returns to no copy of a release that an earlier success left behind', async () => {
    mkdirSync(home.path('releases/.demo-1.0.0.previous'), { recursive: true });
    await interrupted(bundle);
    expect(existsSync(home.path('releases/.demo-1.0.0.previous'))).toBe(false);
    await uninstall(me.input);
  });
});

describe('a medium or a disk that fails while content is copied', () => {
  it.each(['IO_ERROR', 'DISK_FULL', 'BUNDLE_INCOMPLETE'] as const)(
    '(%s) costs nothing that was copied before',
    async (code) => {
      const error = await failure(me.install(tampered(bundle, code)));
      expect(error).toMatchObject({
        code,
        hint: expect.stringMatching(/same command again.*uninstall/) as string,
      });
      expect(existsSync(home.path('models/tiny', 'c'.repeat(40)))).toBe(true);
      expect(await tags()).toEqual([REF]);
      expect(await home.current()).toBeUndefined();
      const before = me.events.length;
      const { steps } = await me.install(bundle);
      const items = me.events.slice(before).filter((e) => e.type === 'item-end');
      const outcomes = new Map(items.map(({ id, outcome }) => [id, outcome]));
      expect(steps.map(({ id }) => outcomes.get(id))).toEqual(['cached', 'cached', 'cached', 'done', 'done']);
      await uninstall(me.input);
      expect(placed()).toEqual([]);
    },
  );

  it('can be taken back as well', async () => {
    await failure(me.install(tampered(bundle, 'DISK_FULL')));
    await uninstall(me.input);
    await expectNothingLeft();
  });

  it('is not what other bytes than the signed ones are: they take everything back, and say so', async () => {
    const error = await failure(me.install(tampered(bundle)));
    expect(error).toMatchObject({
      code: 'CONTENT_MISMATCH',
      message: expect.stringContaining('everything was taken back') as string,
    });
    await expectNothingLeft();
  });
});

describe('killed at any moment', () => {
  it('an install goes on when it is run again, and a failing one takes back what the killed one placed', async () => {
    let killed = 0;
    let failed = 0;
    for (let round = 0; round < 12; round++) {
      if (await killAfter(round * 40)) killed++;
      if (round % 2 === 0) {
        expect(await me.install(bundle)).toMatchObject({ release: 'demo-1.0.0' });
        expect(await readJournal(home)).toBeUndefined();
        await uninstall(me.input);
      } else {
        const outcome = await me.install(tampered(bundle)).catch((error: unknown) => error);
        if (outcome instanceof Error) {
          expect(outcome).toMatchObject({ code: 'CONTENT_MISMATCH' });
          failed++;
        } else {
          await uninstall(me.input); // the kill came after the last image, whose layer is the broken one
        }
      }
      expect(await tags()).toEqual([]);
      expect(placed()).toEqual([]);
    }
    expect(killed).toBeGreaterThan(3);
    expect(failed).toBeGreaterThan(0);
  }, 240_000);

  it('an install that another bundle left behind is taken back first', async () => {
    while (!(await killAfter(150)) || (await readJournal(home)) === undefined)
      await uninstall(me.input).catch(() => undefined);
    const other = await makeBundle({ name: 'other', images: [], model: tinyModel({ seed: 9 }) });
    await me.install(other);
    expect(await tags()).toEqual([]);
    expect(await home.releases()).toEqual(['other-1.0.0']);
    expect(me.events.some((e) => e.type === 'warning' && e.code === 'UNFINISHED')).toBe(true);
  }, 60_000);

  it('interrupted, it keeps what is finished and says so', async () => {
    const controller = new AbortController();
    const opened = await bundle.open();
    const plan = await me.plan(opened);
    const emit = (event: { type: string; id?: string }): void => {
      if (event.type === 'item-end' && event.id?.startsWith('model:')) controller.abort();
    };
    await expect(applyPlan(plan, { emit, signal: controller.signal })).rejects.toMatchObject({
      code: 'INTERRUPTED',
    });
    await opened.close();
    expect((await readJournal(home))?.entries.map((e) => e.state)).toContain('done');
    expect(existsSync(home.path('models/tiny', 'c'.repeat(40)))).toBe(true);
    await me.install(bundle);
    expect(await readJournal(home)).toBeUndefined();
  });
});
