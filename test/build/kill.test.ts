// SPDX-License-Identifier: Apache-2.0
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { expect, test } from 'vitest';
import { peekBundle } from '../../src/bundle/peek.ts';
import { digestOf, hexOf } from '../../src/store/digest.ts';
import { readArrived, readNoted } from '../../src/store/download-journal.ts';
import { Ranges } from '../../src/store/segments.ts';
import { startHub, type HubFixture } from '../support/hub.ts';
import { slices, tinyModel } from '../../fixtures/model.ts';
import { Random } from '../support/random.ts';
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

/** Runs the child until the hub has sent `bytes` more, and then some milliseconds; without a number, to its own end. */
async function run(
  folder: string,
  hub: HubFixture,
  soleCopy: boolean,
  bytes = Infinity,
  delayMs = 0,
): Promise<number | null> {
  const script = join(import.meta.dirname, 'kill-child.ts');
  const child = spawn(process.execPath, [script, folder, hub.url, ...(soleCopy ? ['sole'] : [])], {
    stdio: ['ignore', 'ignore', 'inherit'],
  });
  const ended = once(child, 'exit') as Promise<[number | null]>;
  const until = served(hub) + bytes;
  while (child.exitCode === null && served(hub) < until) await sleep(2);
  if (bytes < Infinity) await sleep(delayMs);
  child.kill('SIGKILL'); // one that has ended does not mind
  return (await ended)[0];
}

interface LargeFile {
  path: string;
  hex: string;
  size: number;
}

/** Those that come in segments. */
const LARGE: readonly LargeFile[] = [...tinyModel()].flatMap(([path, { bytes, lfs }]) => {
  const content = Buffer.concat([...slices(bytes)]);
  if (!lfs || content.length <= 10_000) return [];
  return { path, hex: hexOf(digestOf(content)), size: content.length };
});

/** What there is of the large files, by path: in the store, or in the bundle that will be the only copy. */
function held(folder: string): Map<string, Ranges> {
  const partial = join(folder, 'store/partial');
  const bundle = existsSync(partial)
    ? readdirSync(partial).find((name) => name.startsWith('bundle-'))
    : undefined;
  return new Map(
    LARGE.map(({ path, hex, size }) => {
      if (existsSync(join(folder, 'store/blobs/sha256', hex)))
        return [path, new Ranges([{ from: 0, to: size }])];
      if (bundle === undefined) return [path, readArrived(join(partial, hex), size).ranges];
      const done = join(partial, bundle, 'done');
      const whole = existsSync(done) && readFileSync(done, 'utf8').includes(`${hex}\n`);
      return [
        path,
        whole ? new Ranges([{ from: 0, to: size }]) : readNoted(join(partial, bundle, hex), size).ranges,
      ];
    }),
  );
}

/** Every request for a file since it had been asked for `seen` times. A request without a range is for all of it. */
function asked(hub: HubFixture, { path, size }: LargeFile, seen: number): { from: number; to: number }[] {
  const { requests = 0, ranges = [] } = hub.served.get(path) ?? {};
  expect(requests, 'size must make every request for a large file a ranged one').toBe(ranges.length);
  return ranges.slice(seen).map((range) => {
    const [, from = '', to = ''] = /^bytes=(\d+)-(\d*)$/.exec(range) ?? [];
    return { from: Number(from), to: to === '' ? size : Number(to) + 1 };
  });
}

test.each([false, true])(
  'killed again and again, lock and build go on where they were, and ask for nothing that was there (sole copy: %s)',
  async (soleCopy) => {
    const hub = await startHub({ models: [{ name: 'sealift/tiny-chat', files: tinyModel() }] });
    const random = new Random('kills in the middle of downloads');
    try {
      const folder = tempDir('killed');
      writeFileSync(join(folder, 'm.yaml'), MANIFEST);
      hub.faults['*'] = { rate: 200_000 };
      let known = held(folder);
      let seen = new Map<string, number>();
      let kills = 0;
      let journals = 0;
      let spared = 0;
      for (let last = false; !last;) {
        last = kills === 8;
        if (last) hub.faults = {};
        const code = await run(
          folder,
          hub,
          soleCopy,
          last ? Infinity : 1 + random.int(120_000),
          random.int(100),
        );
        if (code === null) kills++;
        else expect(code).toBe(0);
        last ||= code === 0;
        // One that was killed may have been done a moment before: then the bundle is there, and whole.
        const there = existsSync(join(folder, 'out.tar'));
        if (code === 0) expect(there).toBe(true);
        if (there) await peekBundle(join(folder, 'out.tar'));
        if (there && code !== 0) rmSync(join(folder, 'out.tar'));
        for (const file of LARGE) {
          const before = known.get(file.path)!;
          for (const { from, to } of asked(hub, file, seen.get(file.path) ?? 0))
            expect(before.gaps(from, to), `${file.path} ${from}-${to}`).toEqual([{ from, to }]);
          spared += before.bytes;
        }
        known = held(folder);
        seen = new Map(LARGE.map(({ path }) => [path, hub.served.get(path)?.ranges.length ?? 0]));
        const partial = join(folder, 'store/partial');
        const left = existsSync(partial) ? readdirSync(partial, { recursive: true, encoding: 'utf8' }) : [];
        journals += left.filter((name) => name.endsWith('.json')).length;
      }
      expect(kills).toBeGreaterThan(2);
      expect(journals).toBeGreaterThan(0);
      expect(spared).toBeGreaterThan(100_000);
      for (const { hex, size } of LARGE) {
        const kept = statSync(join(folder, 'store/blobs/sha256', hex), { throwIfNoEntry: false });
        expect(kept?.size).toBe(soleCopy ? undefined : size);
      }
      expect(readdirSync(join(folder, 'store/partial'))).toEqual([]);
      expect(readdirSync(folder).toSorted()).toEqual(['m.lock.json', 'm.yaml', 'out.tar', 'store']);
    } finally {
      await hub.stop();
    }
  },
);
