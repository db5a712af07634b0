// SPDX-License-Identifier: Apache-2.0
/** The audit that README.md prints, run as it is printed there. */
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { person, sampleBundle } from '../support/sample.ts';
import { repoRoot, run, tempDir, type RunResult } from '../support/workspace.ts';

const readme = readFileSync(join(repoRoot, 'README.md'), 'utf8');
const commands = /<!-- audit -->\s*```sh\n([\s\S]*?)```/.exec(readme)![1]!;
const alice = person('alice');
const sample = await sampleBundle();
const good = readFileSync(await sample.write([alice]));

function audit(bundle: Buffer, publicPem = alice.publicPem): Promise<RunResult> {
  const cwd = tempDir('audit');
  writeFileSync(join(cwd, 'b.tar'), bundle);
  writeFileSync(join(cwd, 'k.pub'), publicPem);
  const env = { ...process.env, BUNDLE: join(cwd, 'b.tar'), KEY: join(cwd, 'k.pub') };
  return run('sh', ['-euc', commands], { cwd, env });
}

/** The bundle with one bit changed at the start of the last occurrence of `text`. */
function flipped(text: string): Buffer {
  const bytes = Buffer.from(good);
  bytes[good.lastIndexOf(text)]! ^= 1;
  return bytes;
}

describe('the audit of the README', () => {
  it('passes on a good bundle', async () => {
    const result = await audit(good);
    expect(result.stderr).toBe('');
    expect(result.code).toBe(0);
    expect(result.stdout).toMatch(/^Verified OK\n/);
    expect(result.stdout.match(/: OK$/gm)?.length).toBe(sample.plan.blobs.length + 5);
  });

  it('fails under another key', async () => {
    expect((await audit(good, person('mallory').publicPem)).code).not.toBe(0);
  });

  it.each([
    ['the sums', '  bundle.json\n'],
    ['the inventory', '"kind": "Inventory"'],
    ['the weights', 'wwwwwwww'],
    ['a document', '"imageLayoutVersion"'],
  ])('fails when a bit of %s is changed', async (_, text) => {
    expect((await audit(flipped(text))).code).not.toBe(0);
  });

  it('fails when the archive holds more than is listed', async () => {
    const path = join(tempDir('more'), 'b.tar');
    writeFileSync(path, good);
    writeFileSync(join(path, '../evil.sh'), 'x');
    await run('tar', ['--append', '-f', path, '-C', join(path, '..'), 'evil.sh']);
    expect((await audit(readFileSync(path))).code).not.toBe(0);
  });
});
