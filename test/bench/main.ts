// SPDX-License-Identifier: Apache-2.0
/** See scripts/bench. */
import { mkdirSync, rmSync } from 'node:fs';
import { cpus, totalmem } from 'node:os';
import { mkdtemp } from 'node:fs/promises';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { removeTree, repoRoot } from '../support/workspace.ts';
import { buildJobs, deltaJobs, installJobs, pathJobs, verifyJobs } from './jobs.ts';
import { shell } from './measure.ts';
import { peerJobs } from './peers.ts';
import { GIB, makeRig, type Rig } from './rig.ts';
import { countJobs, sizeJobs } from './scale.ts';
import { printTable, type Row } from './table.ts';

/** In this order: `verify` and `install` take the bundle that `build` leaves. */
const JOBS: Record<string, (rig: Rig) => Promise<Row[]>> = {
  build: buildJobs,
  verify: verifyJobs,
  install: installJobs,
  delta: deltaJobs,
  path: pathJobs,
  size: sizeJobs,
  count: countJobs,
  peers: peerJobs,
};

const { values } = parseArgs({
  options: { gib: { type: 'string', default: '8' }, only: { type: 'string' }, dir: { type: 'string' } },
});
const gib = Number(values.gib);
const only = values.only?.split(',') ?? Object.keys(JOBS);
const unknown = only.find((name) => !(name in JOBS));
if (!(gib > 0) || unknown !== undefined) {
  console.error(`bench: --gib takes a number, --only a list of ${Object.keys(JOBS).join(', ')}`);
  process.exit(2);
}

const parent = values.dir ?? join(repoRoot, '.cache');
mkdirSync(parent, { recursive: true });
const work = await mkdtemp(join(parent, 'bench-'));
let rig: Rig | undefined;
const rows: Row[] = [];
try {
  rig = await makeRig(work, gib);
  // A virtual machine pays for memory and disk that it touches for the first time; the first job must not pay for all.
  await shell('cp -r weights warm && sync -f warm && rm -r warm', work);
  const needed = only.some((name) => name === 'verify' || name === 'install') ? ['build', ...only] : only;
  for (const [name, job] of Object.entries(JOBS)) {
    if (!needed.includes(name)) continue;
    console.error(`bench: ${name}`);
    rows.push(...(await job(rig)));
  }
} finally {
  if (rows.length > 0) print(); // also what was measured before a job failed
  await rig?.stop();
  removeTree(work);
  rmSync(work, { recursive: true, force: true });
}

function print(): void {
  const [cpu] = cpus();
  console.log(
    `${cpus().length} cores of ${cpu?.model ?? '?'}, ${(totalmem() / GIB).toFixed(0)} GiB of memory, ${gib} GiB of weights and layers\n`,
  );
  printTable(rows, console.log);
}
