// SPDX-License-Identifier: Apache-2.0
/**
 * Makes the enclave's sealift: one file with Node, the program of the inside and its threads, that needs nothing on the
 * host. The same sources, dependencies and Node give the same bytes.
 *
 *   node scripts/executable.ts [--arch x64|arm64] [FOLDER]     (default: this machine's, into dist)
 *
 * The Node inside is the one that package-lock.json pins by its hash; for the other architecture it is fetched from
 * the package registry, held against the same hash.
 */
import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { parseArgs } from 'node:util';

const root = resolve(import.meta.dirname, '..');
const { values, positionals } = parseArgs({
  options: { arch: { type: 'string', default: process.arch } },
  allowPositionals: true,
});
const { arch } = values;
if (arch !== 'x64' && arch !== 'arm64') throw new Error(`--arch is x64 or arm64, not ${arch}`);
const outdir = resolve(positionals[0] ?? join(root, 'dist'));
const work = mkdtempSync(join(tmpdir(), 'sealift-executable-'));
try {
  const output = join(outdir, `sealift-enclave-linux-${arch}`);
  mkdirSync(outdir, { recursive: true });
  make(nodeFor(arch), output);
  const digest = createHash('sha256').update(readFileSync(output)).digest('hex');
  console.log(`${digest}  ${output}`);
} finally {
  rmSync(work, { recursive: true });
}

/** Builds the programs anew and puts them into a copy of Node (nodejs.org/api/single-executable-applications.html). */
function make(node: string, output: string): void {
  execFileSync(process.execPath, [join(root, 'scripts/build.ts'), work]);
  const config = {
    // Relative, because the path of the program goes into the executable.
    main: 'enclave.mjs',
    mainFormat: 'module',
    executable: node,
    output,
    assets: { 'transfer-worker.mjs': 'transfer-worker.mjs' },
    disableExperimentalSEAWarning: true,
    useSnapshot: false,
    // With it, every build would differ.
    useCodeCache: false,
    // Nobody who sets NODE_OPTIONS may put code before ours (THREATS.md), and a signal must not open a debugger.
    execArgvExtension: 'none',
    execArgv: ['--disable-sigusr1'],
  };
  writeFileSync(join(work, 'sea.json'), JSON.stringify(config));
  execFileSync(process.execPath, ['--build-sea', 'sea.json'], {
    cwd: work,
    stdio: ['ignore', 'ignore', 'inherit'],
  });
}

function nodeFor(wanted: 'x64' | 'arm64'): string {
  const name = `node-linux-${wanted}`;
  const installed = join(root, 'node_modules', name, 'bin/node');
  if (existsSync(installed)) return installed;
  const { packages } = JSON.parse(readFileSync(join(root, 'package-lock.json'), 'utf8')) as {
    packages: Record<string, { version: string; integrity: string }>;
  };
  const { version, integrity } = packages[`node_modules/${name}`]!;
  execFileSync('npm', ['pack', '--silent', '--pack-destination', work, `${name}@${version}`]);
  const archive = join(work, `${name}-${version}.tgz`);
  const found = `sha512-${createHash('sha512').update(readFileSync(archive)).digest('base64')}`;
  if (found !== integrity)
    throw new Error(`${name}@${version} is ${found}, and package-lock.json pins ${integrity}`);
  execFileSync('tar', ['-xzf', archive, '-C', work]);
  return join(work, 'package/bin/node');
}
