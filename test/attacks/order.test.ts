// SPDX-License-Identifier: Apache-2.0
/**
 * The order of verification, proved by counting: what nobody vouched for is not read, and nothing is written before
 * the verdict on signatures and policy (FORMAT.md §7.3, THREATS.md T1, T5).
 */
import { readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { beforeAll, describe, expect, it } from 'vitest';
import { judgeBundle, type OpenOptions } from '../../src/bundle/judge.ts';
import type { ByteSource } from '../../src/bundle/source.ts';
import { parseSums, blobName } from '../../src/bundle/sums.ts';
import type { TrustPolicy } from '../../src/trust/policy.ts';
import { split } from '../support/members.ts';
import { person, policyOf, policyText, sampleBundle } from '../support/sample.ts';
import { repoRoot, run, runOk, tempDir } from '../support/workspace.ts';

const [alice, bob, mallory] = [person('alice'), person('bob'), person('mallory')];
const sample = await sampleBundle({ channel: 'stable' });
const path = await sample.write([alice]);
const bytes = readFileSync(path);

/** Offset behind each member's content, by name. */
const ends = new Map<string, number>();
for (let at = 0, i = 0, members = split(bytes); i < members.length; i++) {
  const { name, content } = members[i]!;
  ends.set(name, at + 512 + content.length);
  at += 512 + Math.ceil(content.length / 512) * 512;
}
const endOfSlots = ends.get('signatures/7.sigstore.json')!;
/** With the zeros behind it, which are part of its form. */
const endOfDocuments = Math.ceil(ends.get('manifest.json')! / 512) * 512;

/** The bundle in memory, with every range that was read of it. */
class CountingSource implements ByteSource {
  readonly name = 'counted';
  readonly size = bytes.length;
  readonly ranges: [from: number, to: number][] = [];

  async readInto(target: Uint8Array, position: number): Promise<void> {
    this.ranges.push([position, position + target.length]);
    bytes.copy(target, 0, position, position + target.length);
  }

  async close(): Promise<void> {}

  get furthest(): number {
    return Math.max(...this.ranges.map(([, to]) => to));
  }
}

async function read(
  policy: TrustPolicy,
  installed?: OpenOptions['installed'],
): Promise<[string, CountingSource]> {
  const source = new CountingSource();
  const options = { policy, now: new Date('2026-11-23T12:00:00Z'), ...(installed && { installed }) };
  const outcome = await judgeBundle(source, options).then(
    () => 'accepted',
    (error: { code: string }) => error.code,
  );
  return [outcome, source];
}

describe('nothing behind the slots is read', () => {
  it.each<[string, TrustPolicy, string]>([
    ['by a stranger', policyOf([mallory]), 'UNTRUSTED_SIGNER'],
    ['too few signers', policyOf([alice, bob], 2), 'THRESHOLD_NOT_MET'],
    ['a revoked key', policyOf([alice], 1, revoked()), 'SIGNER_REVOKED'],
  ])('%s', async (_, policy, code) => {
    const [outcome, source] = await read(policy);
    expect([outcome, source.furthest <= endOfSlots]).toEqual([code, true]);
  });
});

describe('nothing behind the documents is read', () => {
  const installed = { version: '9.0.0', digest: `sha256:${'0'.repeat(64)}` as const };
  it.each<[string, TrustPolicy, string, OpenOptions['installed']?]>([
    [
      'a revoked bundle',
      policyOf([alice], 1, `revoked: { bundles: ["${sample.plan.digest}"] }\n`),
      'BUNDLE_REVOKED',
    ],
    ['another channel', policyOf([alice], 1, 'channel: testing\n'), 'NOT_FOR_THIS_HOST'],
    ['another name', policyOf([alice], 1, 'names: [other]\n'), 'NOT_FOR_THIS_HOST'],
    [
      'below the minimum',
      policyOf([alice], 1, 'bundles: { sample: { minVersion: 2.0.0 } }\n'),
      'VERSION_REFUSED',
    ],
    ['an older version', policyOf([alice]), 'VERSION_REFUSED', () => installed],
  ])('%s', async (_, policy, code, before) => {
    const [outcome, source] = await read(policy, before);
    expect([outcome, source.furthest <= endOfDocuments]).toEqual([code, true]);
  });
});

it('of an accepted bundle no layer and no file of a model is read before it is used', async () => {
  const [outcome, source] = await read(policyOf([alice]));
  expect(outcome).toBe('accepted');
  const small = new Set(sample.plan.blobs.map((b) => b.digest).filter((digest) => isMeta(digest)));
  for (const digest of parseSums(sample.plan.sums).blobs) {
    const { size } = sample.plan.blobs.find((b) => b.digest === digest)!;
    const end = ends.get(blobName(digest))!;
    const touched = source.ranges.some(([from, to]) => from < end && to > end - size && size > 0);
    expect([digest, touched]).toEqual([digest, small.has(digest)]);
  }
});

/** Manifests and configs: JSON that the structure is checked by. */
function isMeta(digest: string): boolean {
  const { size } = sample.plan.blobs.find((b) => b.digest === digest)!;
  const end = ends.get(blobName(digest as `sha256:${string}`))!;
  return /"(schemaVersion|rootfs|modelfs)"|^\{\}$/.test(bytes.subarray(end - size, end).toString());
}

function revoked(): string {
  return `revoked: { keys: ["${policyOf([alice]).signers[0]!.fingerprint!}"] }\n`;
}

/** Calls that change a file system, of a program that opens files for reading only. */
const WRITES =
  'openat,open,creat,mkdir,mkdirat,rename,renameat,renameat2,link,linkat,symlink,symlinkat,unlink,unlinkat,truncate,ftruncate,chmod,fchmodat,write,pwrite64,writev,pwritev';

describe('nothing is written before the verdict', () => {
  let program = '';
  beforeAll(async () => {
    const dist = tempDir('order-dist');
    await runOk(process.execPath, [join(repoRoot, 'scripts/build.ts'), dist], { cwd: repoRoot });
    program = join(dist, 'enclave.mjs');
  });

  /** Changes to the file system that a run of the program makes, as strace shows them. */
  async function changesOf(args: string[]): Promise<{ code: number; changes: string[] }> {
    const log = join(tempDir('order'), 'strace');
    const options = ['-f', '-y', '-qq', '-e', `trace=${WRITES}`, '-o', log];
    const { code } = await run('strace', [...options, process.execPath, program, ...args]);
    return { code, changes: readFileSync(log, 'utf8').split('\n').filter(isChange) };
  }

  it('which this way of looking would see', async () => {
    const { code, changes } = await changesOf(['trust', 'host-key', '--home', tempDir('order-home')]);
    expect([code, changes.some((line) => line.includes('host.key'))]).toEqual([0, true]);
  });

  const refusing: [string, string, number][] = [
    ['too few signers', policyText([alice, bob], 2), 11],
    ['another channel', `${policyText([alice])}channel: testing\n`, 14],
  ];
  it.each(refusing.flatMap((row) => [['verify', ...row] as const, ['install', ...row] as const]))(
    '%s, refused for %s',
    async (command, _, policy, exit) => {
      const home = tempDir('order-home');
      writeFileSync(join(home, 'trust.yaml'), policy);
      const args = [command, path, '--home', home, ...(command === 'install' ? ['--yes'] : [])];
      expect(await changesOf(args)).toEqual({ code: exit, changes: [] });
      expect(readdirSync(home)).toEqual(['trust.yaml']);
      expect(readdirSync(dirname(path))).toEqual(['sample.sealift.tar']);
    },
  );
});

/** Opening for reading is none, nor is what goes to pipes, terminals and the event loop's own descriptors. */
function isChange(line: string): boolean {
  const call = /^\d+ +(\w+)\(/.exec(line)?.[1];
  if (call === undefined || / = -1 E/.test(line)) return false;
  if (call === 'openat' || call === 'open')
    return /O_WRONLY|O_RDWR|O_CREAT|O_TRUNC/.test(line) && !/"\/dev\/(null|tty)"/.test(line);
  if (/^p?writev?(64)?$/.test(call)) return /^\d+ +\w+\(\d+<\//.test(line) && !/<\/dev\//.test(line);
  return true;
}
