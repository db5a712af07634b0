// SPDX-License-Identifier: Apache-2.0
import { closeSync, mkdirSync, openSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import * as fc from 'fast-check';
import { expect, it } from 'vitest';
import { digestOf } from '../../src/store/digest.ts';
import { transfer, transferAll, TransferError, type Stretch } from '../../src/store/transfer.ts';
import { run, tempDir } from '../support/workspace.ts';
import { repoRoot } from '../support/workspace.ts';

const dir = tempDir('transfer');
const bytes = Buffer.from(Array.from({ length: 1_500_000 }, (_, i) => (i * 31 + (i >> 8)) & 255));
const source = join(dir, 'source');
writeFileSync(source, bytes);

function opened<T>(path: string, flags: string, use: (fd: number) => Promise<T>): Promise<T> {
  const fd = openSync(path, flags);
  return use(fd).finally(() => closeSync(fd));
}

it('hashes stretches in their order, and writes them where they are meant to go', async () => {
  const cut = fc.array(fc.nat(bytes.length), { minLength: 1, maxLength: 5 });
  await fc.assert(
    fc.asyncProperty(cut, cut, async (cuts, targets) => {
      const from = (fd: number): Stretch[] => stretchesOf(fd, cuts);
      const target = join(dir, 'target');
      writeFileSync(target, '');
      await opened(source, 'r', (fd) =>
        opened(target, 'r+', async (out) => {
          const to = stretchesOf(out, targets);
          expect(await transfer({ from: from(fd), to })).toBe(digestOf(bytes));
        }),
      );
      expect(readFileSync(target).equals(bytes)).toBe(true);
    }),
    { numRuns: 25 },
  );
});

it('writes what stands around the bytes, and hashes none of it', async () => {
  const target = join(dir, 'framed');
  const before = Buffer.from('header');
  for (const length of [0, 5, 256 * 1024 - 10, 256 * 1024, 1_000_000]) {
    writeFileSync(target, Buffer.alloc(20, 'x'));
    const content = bytes.subarray(7, 7 + length);
    await opened(source, 'r', (fd) =>
      opened(target, 'r+', async (out) => {
        const all = before.length + length + 9;
        const to = [
          { fd: out, offset: 2, length: 3 },
          { fd: out, offset: 5, length: all - 3 },
        ];
        const job = { from: [{ fd, offset: 7, length }], to, before, after: 9 };
        expect(await transfer(job)).toBe(digestOf(content));
      }),
    );
    const written = Buffer.concat([Buffer.from('xx'), before, content, Buffer.alloc(9)]);
    expect(readFileSync(target).subarray(0, written.length).equals(written)).toBe(true);
  }
});

/** All of a file of the size of `bytes`, cut at some places. */
function stretchesOf(fd: number, cuts: readonly number[]): Stretch[] {
  const ends = [...new Set([...cuts, bytes.length])].toSorted((a, b) => a - b);
  return ends.map((end, i) => ({ fd, offset: ends[i - 1] ?? 0, length: end - (ends[i - 1] ?? 0) }));
}

it('opens whole files itself, thousands as well as none', async () => {
  const folder = join(dir, 'many');
  mkdirSync(folder);
  const files = Array.from({ length: 1000 }, (_, i) => ({ path: join(folder, `${i}`), length: i % 7 }));
  for (const [i, { path, length }] of files.entries())
    writeFileSync(path, `${i}`.padEnd(7, 'x').slice(0, length));
  const results = await transferAll(files.map((from) => ({ from })));
  expect(results).toEqual(files.map(({ path }) => digestOf(readFileSync(path))));
  expect(await transferAll([])).toEqual([]);
});

it('tells which job failed, and carries out the others', async () => {
  const good = { from: { path: source, length: bytes.length } };
  const results = await transferAll([
    { from: { path: join(dir, 'nothing'), length: 1 } },
    good,
    { from: { path: source, length: bytes.length - 1 } },
    { from: { path: dir, length: 4096 } },
  ]);
  expect(results).toMatchObject([
    { code: 'ENOENT', side: 'read' },
    digestOf(bytes),
    { code: 'EBADSIZE' },
    { code: 'EBADSIZE' },
  ]);
});

it('tells where a file ends too early, and where it cannot be written', async () => {
  await opened(source, 'r', async (fd) => {
    const error = await transfer({
      from: [
        { fd, offset: 0, length: 10 },
        { fd, offset: 1_000_000, length: 600_000 },
      ],
    }).catch((thrown: unknown) => thrown);
    expect(error).toBeInstanceOf(TransferError);
    expect(error).toMatchObject({ code: 'EEND', side: 'read', stretch: 1, at: 1_500_000 });
    const full = openSync('/dev/full', 'w');
    const job = { from: [{ fd, offset: 0, length: 10 }], to: [{ fd: full, offset: 0, length: 10 }] };
    await expect(transfer(job)).rejects.toMatchObject({ code: 'ENOSPC', side: 'write', stretch: 0, at: 0 });
    closeSync(full);
  });
});

it('stops when it is told to, with the reason, and works on afterwards', async () => {
  const large = join(dir, 'large');
  writeFileSync(large, Buffer.alloc(64 * 1024 * 1024));
  const job = { from: { path: large, length: 64 * 1024 * 1024 } };
  const stop = new AbortController();
  const running = transferAll(
    Array.from({ length: 50 }, () => job),
    { signal: stop.signal, onBytes: () => stop.abort(new Error('enough')) },
  );
  await expect(running).rejects.toThrow('enough');
  await expect(transfer(job, { signal: stop.signal })).rejects.toThrow('enough');
  expect(await transfer({ from: { path: source, length: bytes.length } })).toBe(digestOf(bytes));
});

it('lets callers take turns', async () => {
  const job = { from: { path: source, length: bytes.length } };
  let others = 0;
  const many = transferAll(
    Array.from({ length: 300 }, () => job),
    { onBytes: (moved) => (others += moved) },
  );
  await transfer(job);
  expect(others).toBeLessThan(250 * bytes.length);
  expect(await many).toHaveLength(300);
});

it('comes to an end when threads die, and starts others', async () => {
  const large = join(dir, 'five');
  writeFileSync(large, Buffer.alloc(5 * 1024 * 1024));
  // What is written is to be as long as what is read; a caller who gets that wrong ends the thread.
  const deadly = { from: { path: large, length: 5 * 1024 * 1024 }, to: [] };
  const failing = Array.from({ length: 6 }, () => transfer(deadly).catch((error: unknown) => error));
  for (const error of await Promise.all(failing)) expect(error).toBeInstanceOf(Error);
  await expect(transferAll(Array.from({ length: 6 }, () => deadly))).rejects.toThrow();
  expect(await transfer({ from: { path: source, length: bytes.length } })).toBe(digestOf(bytes));
});

it('counts every byte that it moved', async () => {
  let moved = 0;
  const jobs = Array.from({ length: 9 }, () => ({ from: { path: source, length: bytes.length } }));
  await transferAll(jobs, { onBytes: (n) => (moved += n) });
  expect(moved).toBe(9 * bytes.length);
});

it('keeps no process alive', async () => {
  const program = `import { transfer } from '${repoRoot}/src/store/transfer.ts';
    await transfer({ from: { path: '${source}', length: ${bytes.length} } }); console.log('done');`;
  const result = await run(process.execPath, ['--input-type=module-typescript', '-e', program]);
  expect(result).toMatchObject({ code: 0, stdout: 'done\n' });
});
