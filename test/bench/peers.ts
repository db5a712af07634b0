// SPDX-License-Identifier: Apache-2.0
/** Programs that do a part of the work, when they are on the PATH. What they leave out is said beside the figures. */
import { rmSync } from 'node:fs';
import { join } from 'node:path';
import { findCommand } from '../support/workspace.ts';
import { measure, shell, together, type Cost } from './measure.ts';
import { sealift, writeManifest, type Rig } from './rig.ts';
import type { Row } from './table.ts';

export async function peerJobs(rig: Rig): Promise<Row[]> {
  return findCommand('hf') === undefined ? [] : hfDownload(rig);
}

/** Hugging Face's own client. It checks sizes only, and what it leaves is a folder and no bundle. */
async function hfDownload(rig: Rig): Promise<Row[]> {
  writeManifest(rig.work, 'peer', { model: 'hf:bench/weights@main' });
  const network = ['--store', 'peer-store', ...rig.network];
  const lock = await sealift(rig, 'outside', ['lock', 'peer.yaml', ...network]);
  const build = await sealift(rig, 'outside', [
    'build',
    'peer.yaml',
    '-o',
    'peer.tar',
    '--unsigned',
    ...network,
  ]);
  const other = await hf(rig);
  for (const name of ['peer.tar', 'peer-store', 'hf', 'hf-home'])
    rmSync(join(rig.work, name), { recursive: true, force: true });
  const ours = together(lock, build);
  const beside = 'hf download, synced (no hashes, no bundle)';
  return [{ job: 'lock + build of a model', ours, beside, other, ratio: ours.seconds / other.seconds }];
}

async function hf(rig: Rig): Promise<Cost> {
  const env = { ...process.env, HF_ENDPOINT: rig.hub.url, HF_HOME: join(rig.work, 'hf-home') };
  const args = ['hf', 'download', 'bench/weights', '--local-dir', 'hf'];
  const download = await measure(args, rig.work, { ...env, HF_HUB_DISABLE_XET: '1' });
  return together(download, await shell('sync -f hf', rig.work));
}
