// SPDX-License-Identifier: Apache-2.0
/** The program on the medium is another one, and its digest stands in the signed provenance, but as something else (T33). */
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { beforeAll, describe, expect, it } from 'vitest';
import { placeInstaller, readInstaller, type Installer } from '../../src/build/installer.ts';
import type { Lock } from '../../src/build/lockfile.ts';
import { provenanceOf } from '../../src/build/provenance.ts';
import { digestOf, hexOf } from '../../src/store/digest.ts';
import { run, tempDir, type RunResult } from '../support/workspace.ts';

const NAME = 'sealift-enclave';
const HONEST = Buffer.from('\x7fELF and so on', 'latin1');
const EVIL = Buffer.from('\x7fELF and evil', 'latin1');
const evil = digestOf(EVIL);

const work = tempDir('installer-attack');
let installer: Installer;
let commands: string;

/** The third block of commands of READ-ME-FIRST.txt, as an operator would copy it. */
beforeAll(async () => {
  writeFileSync(join(work, NAME), HONEST);
  installer = await readInstaller(join(work, NAME));
  const medium = tempDir('installer-medium');
  await placeInstaller(installer, join(medium, 'demo.tar'), 'demo 1.0.0');
  const text = readFileSync(join(medium, 'READ-ME-FIRST.txt'), 'utf8');
  const part = text.slice(text.indexOf('What was signed names'), text.indexOf('3. Then'));
  const lines = part.split('\n').filter((line) => line.startsWith('     '));
  commands = lines.map((line) => line.trim().replace(/ {3,}says: .*/, '')).join('\n');
});

type Config = Lock['configs'][number];

function provenance(configs: readonly Config[], more: object = {}): Buffer {
  const lock = {
    manifest: digestOf('manifest'),
    images: [],
    models: [],
    configs,
    created: '2026-11-23T10:00:00Z',
    platform: 'linux/amd64',
    ...more,
  };
  return provenanceOf({} as never, { models: {} } as never, lock as never, installer);
}

/** What the commands say of a program, beside a provenance that is signed. */
function check(program: Buffer, signed: Buffer): Promise<RunResult> {
  const cwd = tempDir('installer-check');
  writeFileSync(join(cwd, 'copy'), program);
  writeFileSync(join(cwd, 'provenance.json'), signed);
  writeFileSync(join(cwd, 'SHA256SUMS'), `${hexOf(digestOf(signed))}  provenance.json\n`);
  return run('sh', ['-euc', commands], { cwd, env: { PATH: process.env.PATH, P: join(cwd, 'copy') } });
}

it('takes the program that was packed, and says so', async () => {
  const checked = await check(HONEST, provenance([]));
  expect(checked, checked.stderr).toMatchObject({ code: 0, stdout: 'provenance.json: OK\n1\n' });
});

describe('a changed program is refused, also when the provenance', () => {
  const config = (name: string): Config => ({ name, digest: evil, size: EVIL.length });
  const sha256 = hexOf(evil);
  const model = {
    name: 'tiny',
    from: 'file:./tiny',
    revision: evil,
    files: [{ path: 'model.sig', digest: evil, size: EVIL.length }],
    oms: { key: Buffer.from('key').toString('base64') },
  };
  it.each<[string, () => Buffer]>([
    ['names nothing but the honest one', () => provenance([])],
    ['has it as a config', () => provenance([config('notes')])],
    ['has it as a config with the name of the program', () => provenance([config(NAME)])],
    [
      'has a name that looks like the lines that are looked for',
      () =>
        provenance([
          config(
            `x"\n      "byproducts": [\n            "sha256": "${sha256}"\n          },\n          "name": "${NAME}"`,
          ),
        ]),
    ],
    ['has it as a parameter', () => provenance([], { created: `            "sha256": "${sha256}"` })],
    ['has it as a byproduct of another name', () => provenance([], { models: [model] })],
  ])('%s', async (_, make) => {
    const signed = make();
    if (signed.toString().includes(sha256)) expect((await check(HONEST, signed)).code).toBe(0);
    const checked = await check(EVIL, signed);
    expect(checked.code).not.toBe(0);
    expect(checked.stdout).not.toMatch(/^1$/m);
  });

  it('stands really in those', () => {
    expect(provenance([config('notes')]).toString()).toContain(sha256);
    expect(
      provenance([], { models: [model] })
        .toString()
        .split('"byproducts"')[1],
    ).toContain(sha256);
  });
});
