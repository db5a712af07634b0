// SPDX-License-Identifier: Apache-2.0
/**
 * Builds the two programs, each one file with its dependencies inside, and the threads that both start:
 *   dist/sealift.mjs           every command
 *   dist/enclave.mjs           only what an enclave needs: no sources, no signing of bundles, no network client
 *   dist/transfer-worker.mjs   moves and hashes bytes; of Node's modules it has files and sha256
 * dist/meta-*.json list what went into each. The same sources give the same bytes.
 *
 *   node scripts/build.ts [FOLDER]     (default: dist)
 */
import { chmod, mkdir, writeFile } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { build as esbuild, type Plugin } from 'esbuild';

const root = resolve(import.meta.dirname, '..');

/**
 * Packages that docker-modem and dockerode load for ssh://, BuildKit sessions and image builds. sealift
 * speaks to a unix socket and does none of that; left in, they are 2 MB, a native module and a network client.
 */
const STUBS = /^(ssh2|cpu-features|@grpc\/grpc-js|@grpc\/proto-loader|protobufjs)(\/|$)/;

const stubUnused: Plugin = {
  name: 'stub-unused',
  setup(build) {
    build.onResolve({ filter: STUBS }, ({ path }) => ({ path, namespace: 'stub' }));
    build.onLoad({ filter: /.*/, namespace: 'stub' }, ({ path }) => ({
      contents: `module.exports = new Proxy({}, { get(_, name) {
        if (name === '__esModule' || typeof name === 'symbol') return undefined;
        return function () { throw new Error(${JSON.stringify(path)} + '.' + name + ' is not part of sealift'); };
      } });`,
      loader: 'js',
    }));
  },
};

/**
 * docker-modem follows redirects, also away from the engine's unix socket and into the network. An engine that
 * redirects is not one that sealift talks to: here it gets plain node:http, and a redirect is an error.
 */
const noRedirects: Plugin = {
  name: 'no-redirects',
  setup(build) {
    build.onLoad({ filter: /[/\\]docker-modem[/\\]lib[/\\]http\.js$/ }, () => ({
      contents: "module.exports = { http: require('node:http'), https: require('node:http') };",
      loader: 'js',
    }));
  },
};

const BANNER = `#!/usr/bin/env node
// SPDX-License-Identifier: Apache-2.0
// Built from src/ by scripts/build.ts.`;

/** For dependencies that are not modules. A thread has none, and no path inside of the executable. */
const REQUIRE = `
import { createRequire as __createRequire } from 'node:module';
const require = __createRequire(import.meta.url);`;

const WORKER = 'transfer-worker';

/** @param name of the program; `entry` is relative to the repository */
async function bundle(name: string, entry: string, outdir: string): Promise<void> {
  const outfile = join(outdir, `${name}.mjs`);
  const { metafile } = await esbuild({
    absWorkingDir: root,
    entryPoints: [entry],
    outfile,
    bundle: true,
    platform: 'node',
    format: 'esm',
    target: 'node24',
    charset: 'utf8',
    legalComments: 'inline',
    logLevel: 'warning',
    metafile: true,
    banner: { js: name === WORKER ? BANNER : BANNER + REQUIRE },
    plugins: [stubUnused, noRedirects],
  });
  // Where the output stands is not part of what went into it.
  const inputs = { inputs: metafile.inputs, imports: Object.values(metafile.outputs)[0]?.imports ?? [] };
  await writeFile(join(outdir, `meta-${name}.json`), `${JSON.stringify(inputs, null, 1)}\n`);
  await chmod(outfile, 0o755);
}

const outdir = resolve(process.argv[2] ?? join(root, 'dist'));
await mkdir(outdir, { recursive: true });
await bundle('sealift', 'src/cli/main.ts', outdir);
await bundle('enclave', 'src/cli/enclave.ts', outdir);
await bundle(WORKER, 'src/store/transfer-worker.ts', outdir);
