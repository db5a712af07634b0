// SPDX-License-Identifier: Apache-2.0
/** Locks and builds in a process of its own, so that a test can kill it. Arguments: folder, URL of the hub, `sole`. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { buildBundle } from '../../src/build/build.ts';
import { lockBytes, parseLock, resolveLock, type Lock } from '../../src/build/lock.ts';
import { parseManifest } from '../../src/build/manifest.ts';
import { Credentials } from '../../src/build/sources/credentials.ts';
import type { SourceContext } from '../../src/build/sources/source.ts';
import { silent } from '../../src/events.ts';
import { writeFileDurably } from '../../src/store/files.ts';
import { Store } from '../../src/store/store.ts';

const [folder, hubUrl, sole] = process.argv.slice(2) as [string, string, string?];
const context: SourceContext = {
  baseDir: folder,
  store: await Store.open(join(folder, 'store')),
  platform: 'linux/amd64',
  credentials: new Credentials({}),
  mirrors: new Map(),
  plainHttp: new Set(),
  hubUrl,
  network: { segmentBytes: 10_000 },
  emit: silent,
};
const manifest = parseManifest(readFileSync(join(folder, 'm.yaml'), 'utf8'), 'm.yaml');
const lockFile = join(folder, 'm.lock.json');
const lock = readLock() ?? (await resolveLock(manifest, context, undefined, new Date()));
await writeFileDurably(lockFile, lockBytes(lock));
const out = join(folder, 'out.tar');
await buildBundle({ manifest, lock, context, out, signers: [], soleCopy: sole === 'sole', emit: silent });

function readLock(): Lock | undefined {
  try {
    return parseLock(readFileSync(lockFile), lockFile);
  } catch {
    return undefined;
  }
}
