// SPDX-License-Identifier: Apache-2.0
/** A small bundle made by the commands themselves. */
import { mkdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { ALL } from '../../src/cli/all.ts';
import { tempDir } from '../support/workspace.ts';
import { run } from './harness.ts';

export interface SampleBundle {
  /** A folder that holds nothing else than the sample. */
  dir: string;
  bundle: string;
  publicPem: string;
}

async function ok(...argv: string[]): Promise<void> {
  const ran = await run(ALL, argv);
  if (ran.exit !== 0) throw new Error(`sealift ${argv.join(' ')}: exit ${ran.exit}\n${ran.stderr}`);
}

/** Builds a bundle of one small model, signed by a key of its own. */
export async function sampleBundle(): Promise<SampleBundle> {
  const dir = tempDir('cli-sample');
  const at = (name: string): string => join(dir, name);
  await mkdir(at('weights'));
  await writeFile(at('weights/config.json'), '{}\n');
  await writeFile(
    at('tiny.yaml'),
    'apiVersion: sealift.dev/v1\nkind: Bundle\nmetadata: { name: tiny, version: 1.0.0 }\nplatform: linux/amd64\nmodels:\n  tiny: { from: "file:./weights" }\n',
  );
  await writeFile(at('pass'), 'correct horse\n');
  await ok('keygen', '-o', at('release.key'), '--passphrase-file', at('pass'));
  await ok('lock', at('tiny.yaml'), '--store', at('store'));
  const key = ['--key', at('release.key'), '--passphrase-file', at('pass')];
  await ok('build', at('tiny.yaml'), '--store', at('store'), '-o', at('tiny.sealift.tar'), ...key);
  return { dir, bundle: at('tiny.sealift.tar'), publicPem: await readFile(at('release.pub'), 'utf8') };
}

/** A trust policy with this one signer. */
export function policyYaml(publicPem: string): string {
  const key = publicPem.trim().replace(/^/gm, '      ');
  return `apiVersion: sealift.dev/v1\nkind: TrustPolicy\nversion: 1\nthreshold: 1\nsigners:\n  - name: release\n    publicKey: |\n${key}\n`;
}
