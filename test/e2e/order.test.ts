// SPDX-License-Identifier: Apache-2.0
/**
 * What the built enclave program reads and writes before a verdict, by strace: with too few good signatures nothing
 * behind the slots, with a refusing policy nothing behind the documents, and nothing is written anywhere.
 */
import { readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { beforeAll, describe, expect, it } from 'vitest';
import { digestOf } from '../../src/store/digest.ts';
import { split } from '../support/members.ts';
import { person, sampleBundle, type Person } from '../support/sample.ts';
import { PROGRAM, provisionHome } from '../support/stack.ts';
import { run, tempDir } from '../support/workspace.ts';

const work = tempDir('order');
const [alice, bob, stranger] = ['alice', 'bob', 'stranger'].map(person) as [Person, Person, Person];
const sample = await sampleBundle();
const bundles = {
  unsigned: await sample.write([]),
  alice: await sample.write([alice]),
  stranger: await sample.write([stranger]),
};
const archive = readFileSync(bundles.alice);
const END_OF_SLOTS = archive.indexOf('bundle.json\0');
const END_OF_DOCUMENTS = archive.indexOf(`${split(archive)[14]!.name}\0`);

/** One home for each policy, provisioned once; strace shows whether anything in it was touched. */
const homes = new Map<string, string>();
async function home(name: string, signers: Person[], threshold: number, more = ''): Promise<void> {
  const root = join(work, name);
  await provisionHome(
    root,
    signers.map((p) => p.publicPem),
    8443,
    threshold,
  );
  const file = join(root, 'trust.yaml');
  writeFileSync(file, readFileSync(file, 'utf8') + more);
  homes.set(name, root);
}

beforeAll(async () => {
  await home('one', [alice, bob], 1);
  await home('two', [alice, bob], 2);
  await home('revoked', [alice], 1, `revoked: { bundles: ["${sample.plan.digest}"] }\n`);
  await home('minimum', [alice], 1, 'bundles: { sample: { minVersion: 9.0.0 } }\n');
  await home('channel', [alice], 1, 'channel: stable\n');
  await home('names', [alice], 1, 'names: [other]\n');
  await home('newer', [alice], 1);
  const installed = {
    schema: 'sealift/installed/v1',
    bundles: { sample: { version: '2.0.0', digest: digestOf('x') } },
  };
  writeFileSync(join(homes.get('newer')!, 'installed.json'), JSON.stringify(installed));
});

interface Traced {
  code: number;
  /** End of the furthest read of the bundle, in bytes. */
  read: number;
  /** System calls that change a file system, or talk to anybody. */
  changes: string[];
}

const CHANGES = 'mkdir,mkdirat,rename,renameat,renameat2,unlink,unlinkat,rmdir,link,linkat,symlink,symlinkat';
const MORE = 'truncate,ftruncate,chmod,fchmod,fchmodat,chown,fchown,utimensat,mknod,mknodat,connect,sendto';

async function traced(bundle: string, args: string[]): Promise<Traced> {
  const folder = tempDir('strace');
  const calls = `trace=open,openat,creat,read,pread64,readv,preadv,mmap,${CHANGES},${MORE}`;
  // A file for each thread, so that no call is torn in two by another.
  const strace = ['-ff', '-y', '-s', '0', '-e', calls, '-o', join(folder, 'log')];
  const { code } = await run('strace', [...strace, process.execPath, PROGRAM.inside, ...args], { cwd: work });
  const lines = readdirSync(folder).flatMap((file) => readFileSync(join(folder, file), 'utf8').split('\n'));
  const reads = lines.filter((line) => line.includes(`<${bundle}>`) && !line.startsWith('openat('));
  return { code, read: Math.max(0, ...reads.map(endOf)), changes: lines.filter(isChange) };
}

/** All reading is by position: a call that this does not understand would be a reader of another kind. */
function endOf(line: string): number {
  const match = /^pread64\(\d+<[^>]*>, ""\.\.\., \d+, (\d+)\) += (\d+)/.exec(line);
  if (!match) throw new Error(`another way of reading: ${line}`);
  return Number(match[1]) + Number(match[2]);
}

/** Opening something for writing counts, other than the terminal and what is nothing. */
function isChange(line: string): boolean {
  const call = /^(\w+)\(/.exec(line)?.[1];
  if (call === undefined || ['read', 'pread64', 'readv', 'preadv', 'mmap'].includes(call)) return false;
  if (!['open', 'openat', 'creat'].includes(call)) return true;
  return /O_WRONLY|O_RDWR|O_CREAT|O_TRUNC|O_TMPFILE/.test(line) && !/"\/dev\/(null|tty)"/.test(line);
}

const commands: [string, (bundle: string, home: string) => string[]][] = [
  ['verify', (bundle, root) => ['verify', bundle, '--home', root]],
  [
    'install --dry-run',
    (bundle, root) => ['install', bundle, '--home', root, '--dry-run', '--engine', join(work, 'none.sock')],
  ],
  [
    'install --yes',
    (bundle, root) => ['install', bundle, '--home', root, '--yes', '--engine', join(work, 'none.sock')],
  ],
];

describe.each(commands)('%s', (_, argv) => {
  it.each<[keyof typeof bundles, string, number]>([
    ['unsigned', 'one', 10],
    ['stranger', 'one', 11],
    ['alice', 'two', 11],
  ])(
    'of a bundle that is %s, under a policy of %s: reads nothing behind the slots',
    async (signed, root, exit) => {
      const { code, read, changes } = await traced(bundles[signed], argv(bundles[signed], homes.get(root)!));
      expect(code).toBe(exit);
      expect(changes).toEqual([]);
      expect(read).toBe(END_OF_SLOTS);
    },
  );

  it.each(['revoked', 'minimum', 'channel', 'names', 'newer'])(
    'of a bundle that is refused as %s: reads nothing behind the documents',
    async (root) => {
      const { code, read, changes } = await traced(bundles.alice, argv(bundles.alice, homes.get(root)!));
      expect(code).toBe(14);
      expect(changes).toEqual([]);
      expect(read).toBeGreaterThan(END_OF_SLOTS);
      expect(read).toBeLessThanOrEqual(END_OF_DOCUMENTS);
    },
  );
});

describe('the same tracing', () => {
  it('sees a bundle that is accepted read to its end', async () => {
    const { code, read, changes } = await traced(bundles.alice, [
      'verify',
      bundles.alice,
      '--home',
      homes.get('one')!,
    ]);
    expect([code, read, changes]).toEqual([0, archive.length, []]);
  });

  it('sees what is written, and who is talked to', async () => {
    const args = [
      'install',
      bundles.alice,
      '--home',
      homes.get('one')!,
      '--yes',
      '--engine',
      join(work, 'none.sock'),
    ];
    const { changes } = await traced(bundles.alice, args);
    expect(changes.join('\n')).toMatch(/none\.sock|mkdir|O_CREAT/);
  });
});
