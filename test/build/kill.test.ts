// SPDX-License-Identifier: Apache-2.0
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { expect, test } from 'vitest';
import { parseLock } from '../../src/build/lock.ts';
import { hexOf } from '../../src/store/digest.ts';
import { startHub, type HubFixture } from '../support/hub.ts';
import { tinyModel } from '../../fixtures/model.ts';
import { tempDir } from '../support/workspace.ts';

const MANIFEST = `
apiVersion: sealift.dev/v1
kind: Bundle
metadata: { name: killed, version: 1.0.0 }
platform: linux/amd64
models:
  tiny: { from: hf:sealift/tiny-chat@main }
`;

const served = (hub: HubFixture): number =>
  [...hub.served.values()].reduce((sum, { bytes }) => sum + bytes, 0);

/** Runs the child until the hub has sent `bytes`, then kills it; without a number, to its own end. */
async function run(folder: string, hub: HubFixture, bytes = Infinity): Promise<number | null> {
  const script = join(import.meta.dirname, 'kill-child.ts');
  const child = spawn(process.execPath, [script, folder, hub.url], {
    stdio: ['ignore', 'ignore', 'inherit'],
  });
  const ended = once(child, 'exit') as Promise<[number | null]>;
  while (child.exitCode === null && served(hub) < bytes) await sleep(2);
  // What has come completely needs a moment to be hashed and to get its name.
  if (bytes < Infinity) await sleep(100);
  child.kill('SIGKILL'); // one that has ended does not mind
  return (await ended)[0];
}

test('killed again and again, lock and build go on where they were and repeat no finished download', async () => {
  const hub = await startHub({ models: [{ name: 'sealift/tiny-chat', files: tinyModel() }] });
  try {
    const folder = tempDir('killed');
    writeFileSync(join(folder, 'm.yaml'), MANIFEST);
    hub.faults['*'] = { rate: 300_000 };
    const finished: { blob: string; requests: Map<string, number> }[] = [];
    const blobs = join(folder, 'store/blobs/sha256');
    let kills = 0;
    for (const bytes of [1, 3000, 40_000, 120_000, 220_000, 340_000]) {
      if (served(hub) >= bytes) continue;
      if ((await run(folder, hub, bytes)) === null) kills++;
      expect(existsSync(join(folder, 'out.tar'))).toBe(false);
      const requests = new Map([...hub.served].map(([path, { bytes: sent }]) => [path, sent]));
      for (const blob of existsSync(blobs) ? readdirSync(blobs) : []) finished.push({ blob, requests });
    }
    expect(kills).toBeGreaterThan(3);
    hub.faults = {};
    expect(await run(folder, hub)).toBe(0);

    const lock = parseLock(readFileSync(join(folder, 'm.lock.json')), 'm.lock.json');
    const large = lock.models[0]!.files.filter(({ path }) => tinyModel().get(path)!.lfs);
    for (const { path, digest } of large) {
      const first = finished.find(({ blob }) => blob === hexOf(digest));
      if (first) expect(hub.served.get(path)!.bytes, path).toBe(first.requests.get(path));
    }
    expect(finished.some(({ blob }) => large.some(({ digest }) => hexOf(digest) === blob))).toBe(true);
    expect(readdirSync(join(folder, 'store/partial'))).toEqual([]);
    expect(readdirSync(folder).toSorted()).toEqual(['m.lock.json', 'm.yaml', 'out.tar', 'store']);
  } finally {
    await hub.stop();
  }
});
