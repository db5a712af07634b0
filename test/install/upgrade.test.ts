// SPDX-License-Identifier: Apache-2.0
/** Life after the install, on a real engine: upgrades under load, going back, old releases, replicas. */
import { chmodSync, readFileSync, renameSync, writeFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { tinyModel } from '../../fixtures/model.ts';
import { readApiKeys } from '../../src/install/api-keys.ts';
import { audit } from '../../src/install/audit.ts';
import { collect, oldReleases } from '../../src/install/gc.ts';
import type { Home } from '../../src/install/home.ts';
import { readJournal } from '../../src/install/journal.ts';
import { readReceipt } from '../../src/install/receipt.ts';
import { planRollback, type RollbackInput } from '../../src/install/rollback.ts';
import { readStatus } from '../../src/install/status.ts';
import { startDocker, type DockerEngine } from '../support/docker.ts';
import { assembleImages, type Layouts } from '../support/images.ts';
import { HOST_NAME } from '../support/stack.ts';
import { run, runOk, tempDir } from '../support/workspace.ts';
import {
  type BundleSpec,
  CHAT,
  chatQuestion,
  installer,
  type Installer,
  makeBundle,
  makeHome,
  policy,
  type RigBundle,
  stackImages,
} from './rig.ts';

let engine: DockerEngine;
let layouts: Layouts;
let home: Home;
let port: number;
let me: Installer;

beforeAll(async () => {
  const work = tempDir('upgrade');
  layouts = await assembleImages(join(work, 'images'));
  engine = await startDocker({ dir: join(work, 'engine') });
  ({ home, port } = await makeHome());
  me = installer(home, engine.socket);
}, 120_000);

afterAll(async () => {
  await engine?.stop();
}, 60_000);

const docker = (...args: string[]): Promise<string> => runOk('docker', ['-H', engine.host, ...args]);

const bundleOf = (version: string, spec: Partial<BundleSpec> = {}): Promise<RigBundle> =>
  makeBundle({
    version,
    images: stackImages(layouts),
    model: tinyModel({ answer: `I am ${version}.` }),
    more: CHAT,
    ...spec,
  });

async function ask(): Promise<string> {
  const key = (await readApiKeys(home.apiKeysFile))![0]!.key;
  const { stdout } = await run('curl', chatQuestion(home, port, key));
  return stdout.endsWith('\n200') ? (/I am \d+\.\d+\.\d+/.exec(stdout)?.[0] ?? 'something else') : 'none';
}

interface Asked {
  at: number;
  answer: string;
}

/** Asks all the while that something is done. */
async function meanwhile<T>(work: () => Promise<T>): Promise<{ result: T; asked: Asked[] }> {
  const asked: Asked[] = [];
  const done = new AbortController();
  const client = (async () => {
    while (!done.signal.aborted) {
      const at = performance.now();
      asked.push({ at, answer: await ask() });
      await sleep(50);
    }
  })();
  try {
    return { result: await work(), asked };
  } finally {
    done.abort();
    await client;
  }
}

/** How often an answer turned into none: what fails in one window fails in a row. */
const windows = (asked: readonly Asked[]): number =>
  asked.filter(({ answer }, i) => answer === 'none' && asked[i - 1]?.answer !== 'none').length;

const failing = (asked: readonly Asked[]): Asked[] => asked.filter(({ answer }) => answer === 'none');

const rollbackInput = (more: Partial<RollbackInput> = {}): RollbackInput => ({
  ...me.input,
  policy,
  judged: new Date(),
  reason: 'ticket 311',
  ...more,
});

const findings = async (): Promise<unknown[]> =>
  (await audit({ home, socket: engine.socket, policy, now: new Date() })).findings;

describe('an upgrade under requests', () => {
  it('to a release that works fails requests only while the engines change places', async () => {
    await me.install(await bundleOf('1.0.0'));
    expect(await ask()).toBe('I am 1.0.0');
    const { asked } = await meanwhile(async () => me.install(await bundleOf('1.1.0')));
    expect(asked[0]!.answer).toBe('I am 1.0.0');
    expect(await ask()).toBe('I am 1.1.0');
    expect(windows(asked)).toBeLessThanOrEqual(1);
    process.stdout.write(
      `upgrade: ${failing(asked).length} of ${asked.length} requests failed, in ${windows(asked)} window\n`,
    );
  });

  it('to one that fails its health check returns to the old one, which answers again', async () => {
    const more = { ...CHAT, services: [{ ...CHAT.services![0]!, options: { 'no-such-flag': true } }] };
    const broken = await bundleOf('1.2.0', { more });
    const { result, asked } = await meanwhile(() =>
      me.install(broken).then(
        () => 'installed',
        (error: unknown) => (error as { code: string }).code,
      ),
    );
    expect(result).toBe('SERVICE_UNHEALTHY');
    expect(await home.current()).toBe('demo-1.1.0');
    expect(await readJournal(home)).toBeUndefined();
    expect(await ask()).toBe('I am 1.1.0');
    // The failed release answered nobody, and there was one window: from its start to the return.
    expect(new Set(asked.map(({ answer }) => answer))).toEqual(new Set(['I am 1.1.0', 'none']));
    expect(windows(asked)).toBe(1);
    expect(await findings()).toEqual([]);
    process.stdout.write(
      `failed upgrade: ${failing(asked).length} of ${asked.length} requests failed, in one window\n`,
    );
  });
});

describe('going back', () => {
  it('starts the release of before without its medium, and says why in its receipt', async () => {
    const plan = await planRollback(rollbackInput());
    expect(plan).toMatchObject({ release: 'demo-1.0.0', replaces: 'demo-1.1.0' });
    const receipt = await plan.apply({ emit: () => {} });
    expect(await ask()).toBe('I am 1.0.0');
    expect(await home.current()).toBe('demo-1.0.0');
    expect((await home.installed()).get('demo')?.version).toBe('1.0.0');
    expect(receipt.overrides).toEqual([
      { check: 'version', refused: 'demo-1.1.0 is current, and 1.0.0 is gone back to', reason: 'ticket 311' },
    ]);
    expect(await findings()).toEqual([]);
    // And forwards again, by name.
    await (await planRollback(rollbackInput({ release: 'demo-1.1.0' }))).apply({ emit: () => {} });
    expect(await ask()).toBe('I am 1.1.0');
  });

  it('is refused when the policy of today does not accept the older one', async () => {
    const revokedKeys = new Set(policy.signers.map(({ fingerprint }) => fingerprint!));
    await expect(planRollback(rollbackInput({ policy: { ...policy, revokedKeys } }))).rejects.toMatchObject({
      code: 'SIGNER_REVOKED',
    });
    const minVersions = new Map([['demo', '1.0.1']]);
    await expect(planRollback(rollbackInput({ policy: { ...policy, minVersions } }))).rejects.toMatchObject({
      code: 'VERSION_REFUSED',
    });
  });

  it('is refused when the older one is not whole, or there is none', async () => {
    const receipt = (await readReceipt(home, 'demo-1.0.0'))!;
    const { path } = receipt.models[0]!;
    renameSync(home.path(path), home.path(`${path}.away`));
    await expect(planRollback(rollbackInput())).rejects.toMatchObject({ code: 'RELEASE_GONE' });
    renameSync(home.path(`${path}.away`), home.path(path));
    await expect(planRollback(rollbackInput({ release: 'demo-0.1.0' }))).rejects.toMatchObject({
      code: 'NOT_INSTALLED',
    });
    expect(await ask()).toBe('I am 1.1.0');
  });

  it('returns to what ran when the older one does not start any more', async () => {
    const receipt = (await readReceipt(home, 'demo-1.0.0'))!;
    const weights = home.path(receipt.models[0]!.path, 'model-00001-of-00002.safetensors');
    const before = readFileSync(weights);
    chmodSync(weights, 0o644);
    writeFileSync(weights, 'not weights'); // the same inode: only an audit would have seen it
    const plan = await planRollback(rollbackInput());
    await expect(plan.apply({ emit: () => {} })).rejects.toMatchObject({ code: 'SERVICE_UNHEALTHY' });
    expect(await ask()).toBe('I am 1.1.0');
    expect(await home.current()).toBe('demo-1.1.0');
    writeFileSync(weights, before);
    chmodSync(weights, 0o444);
  });
});

describe('old releases', () => {
  it('go, but for the running one and the one before, and nothing in use goes with them', async () => {
    await me.install(await bundleOf('1.3.0'));
    await me.install(await bundleOf('1.4.0'));
    expect(await home.releases()).toEqual(['demo-1.0.0', 'demo-1.1.0', 'demo-1.3.0', 'demo-1.4.0']);
    const old = await oldReleases(home, engine.socket, 1);
    expect(old.toSorted()).toEqual(['demo-1.0.0', 'demo-1.1.0']);
    const reports = await collect(old, me.input);
    expect(reports.map(({ release }) => release)).toEqual(old);
    expect(await home.releases()).toEqual(['demo-1.3.0', 'demo-1.4.0']);
    expect(await ask()).toBe('I am 1.4.0');
    expect(await findings()).toEqual([]);
    expect(await oldReleases(home, engine.socket, 1)).toEqual([]);
    await (await planRollback(rollbackInput())).apply({ emit: () => {} });
    expect(await ask()).toBe('I am 1.3.0');
  });
});

describe('replicas', () => {
  it('answer side by side under one name, and one of them alone when the other has ended', async () => {
    const more = { ...CHAT, services: [{ ...CHAT.services![0]!, replicas: 2 }] };
    await me.install(await bundleOf('2.0.0', { more }));
    const { services, drift } = await readStatus({ home, socket: engine.socket });
    expect(services.map((s) => s.service)).toEqual(['chat_1', 'chat_2', 'gateway']);
    expect(drift).toEqual([]);
    expect(await findings()).toEqual([]);
    for (let i = 0; i < 20; i++) expect(await ask()).toBe('I am 2.0.0');
    const log = await docker('logs', 'sealift-demo-gateway-1');
    expect(
      new Set([...log.matchAll(/"upstream":"([\d.]+):8000/g)].map((m) => m[1])).size,
    ).toBeGreaterThanOrEqual(2);
    await docker('stop', '--time', '0', 'sealift-demo-chat_1-1');
    await sleep(6000); // the gateway asks for addresses every five seconds
    for (let i = 0; i < 10; i++) expect(await ask()).toBe('I am 2.0.0');
    await docker('start', 'sealift-demo-chat_1-1');
  });
});

it('the RUNBOOK speaks of this very host', () => {
  const runbook = readFileSync(home.path('current/RUNBOOK.md'), 'utf8');
  for (const words of [
    `# demo 2.0.0 on ${HOST_NAME}`,
    `https://${HOST_NAME}:${port}/v1`,
    `sealift status --home ${home.root}`,
    'docker logs --since 1h sealift-demo-chat_1-1',
    home.apiKeysFile,
    'sealift rollback --reason',
    'tls/server.crt',
  ])
    expect(runbook).toContain(words);
  expect(runbook).not.toMatch(/undefined|\[object/);
});
