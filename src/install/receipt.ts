// SPDX-License-Identifier: Apache-2.0
/**
 * `receipt.json` of a release: what was installed, by what policy and at what time it was verified, how it was
 * proved, what was started, and how to take it back. Beside it `receipt.sigstore.json`, when the host has a key.
 */
import { readFile, rm } from 'node:fs/promises';
import * as z from 'zod';
import { DigestSchema, MonitoringSpec, Name, Size, Version } from '../bundle/inventory.ts';
import { SealiftError } from '../errors.ts';
import { parseJson } from '../json.ts';
import { writeFileDurably } from '../store/files.ts';
import { fingerprint } from '../trust/keys.ts';
import { attest, isAttestedBy } from './attest.ts';
import { absent, MAX_STATE_BYTES, type Home } from './home.ts';
import { readHostPublicKey, type HostKey } from './host-key.ts';
import { UndoRecord } from './step.ts';
import { summaryOf, unwrapped, type FullReceipt } from './vsa.ts';

const Step = z.strictObject({
  id: z.string(),
  /** `done` by this install, or `kept` because it was there. */
  outcome: z.enum(['done', 'kept']),
  /** True when this home placed it, in this or an earlier install; only then does uninstall remove it. */
  brought: z.boolean(),
  record: UndoRecord,
});

export const Receipt = z.strictObject({
  schema: z.literal('sealift/receipt/v1'),
  bundle: z.strictObject({ name: Name, version: Version, digest: DigestSchema, created: z.string() }),
  release: z.string(),
  signatures: z.strictObject({
    threshold: z.number().int(),
    policyVersion: z.number().int(),
    signers: z.array(
      z.strictObject({
        slot: z.number().int(),
        signer: z.string(),
        fingerprint: z.string().optional(),
        identity: z.strictObject({ subject: z.string(), issuer: z.string() }).optional(),
        signedAt: z.iso.datetime().optional(),
      }),
    ),
  }),
  // What follows with `optional` has not been in receipts from the beginning, and those stay readable.
  policy: z.strictObject({ version: z.number().int(), digest: DigestSchema }).optional(),
  time: z
    .strictObject({
      clock: z.iso.datetime(),
      judged: z.iso
        .datetime()
        .describe('The time by which validity was judged: never before one seen earlier'),
    })
    .optional(),
  overrides: z
    .array(z.strictObject({ check: z.literal('version'), refused: z.string(), reason: z.string() }))
    .optional(),
  provenance: z.strictObject({ digest: DigestSchema, describesBuild: z.boolean() }).optional(),
  host: z
    .strictObject({ key: z.string().describe('Fingerprint of the key that signs this receipt') })
    .optional(),
  engine: z.strictObject({
    version: z.string(),
    apiVersion: z.string(),
    platform: z.string(),
    store: z.enum(['classic', 'containerd']),
  }),
  compose: z.string().optional().describe('Version of Compose; a bundle without services needs none'),
  images: z.array(
    z.strictObject({
      name: Name,
      ref: z.string(),
      id: DigestSchema,
      manifest: DigestSchema,
      layers: z.array(DigestSchema).optional().describe('What the engine must report as RootFS.Layers'),
      proof: z.string(),
    }),
  ),
  models: z.array(
    z.strictObject({
      name: Name,
      revision: z.string(),
      path: z.string(),
      files: z.number().int(),
      bytes: Size,
    }),
  ),
  configs: z.strictObject({ path: z.string(), files: z.number().int() }).optional(),
  holds: z
    .array(z.strictObject({ digest: DigestSchema, size: Size }))
    .optional()
    .describe('Layers and files that this host holds with the release: what a delta may leave out'),
  services: z.array(
    z.strictObject({
      name: Name,
      engine: Name,
      image: Name,
      model: Name,
      servedModel: z.string(),
      replicas: z.number().int().optional().describe('How many of it run, when there is more than one'),
    }),
  ),
  gateway: z
    .strictObject({
      project: z.string(),
      service: z.string(),
      image: Name,
      url: z.string(),
      apiKeys: z.string().describe('Path of the file with the keys'),
    })
    .optional(),
  monitoring: MonitoringSpec.optional().describe('Images of the containers that watch the others'),
  smoke: z.array(z.strictObject({ service: Name, model: z.string(), answer: z.string() })),
  startedAt: z.iso.datetime(),
  finishedAt: z.iso.datetime(),
  steps: z.array(Step),
});
export type Receipt = z.infer<typeof Receipt>;

/** @throws {SealiftError} IO_ERROR when the file is there but damaged */
export async function readReceipt(home: Home, release: string): Promise<Receipt | undefined> {
  const file = home.receiptFile(release);
  const bytes = await readFile(file).catch(absent);
  if (bytes === undefined) return undefined;
  const parsed = Receipt.safeParse(unwrapped(parseJson(bytes, file, 'IO_ERROR', MAX_STATE_BYTES)));
  if (parsed.success) return parsed.data;
  throw new SealiftError(
    'IO_ERROR',
    `${file} is not a receipt: ${z.prettifyError(parsed.error).split('\n')[0]}`,
  );
}

/** Receipts of every release of the home. */
export async function readReceipts(home: Home): Promise<Receipt[]> {
  const found = await Promise.all((await home.releases()).map((release) => readReceipt(home, release)));
  return found.filter((receipt) => receipt !== undefined);
}

/**
 * Writes the receipt, then its signature. A kill in between leaves a receipt that names a key and has no signature
 * of it that fits: the journal is still there, and the same install, run again, writes both anew.
 * @param key the host's; receipt.host names it
 */
export async function writeReceipt(home: Home, receipt: Receipt, key: HostKey | undefined): Promise<void> {
  const bytes = summaryOf(demandFull(receipt));
  const signature = home.receiptSignatureFile(receipt.release);
  await writeFileDurably(home.receiptFile(receipt.release), bytes);
  if (key === undefined) await rm(signature, { force: true });
  else await writeFileDurably(signature, `${attest(bytes, key)}\n`);
}

/** @throws {SealiftError} IO_ERROR for one of before summaries, which can only be written by an install */
function demandFull(receipt: Receipt): FullReceipt {
  const { policy, time, provenance } = receipt;
  if (policy && time && provenance) return { ...receipt, policy, time, provenance };
  throw new SealiftError('IO_ERROR', `the receipt of ${receipt.release} is of an older sealift`, {
    hint: 'install the release from its medium once more',
  });
}

/** Removes a receipt, and its signature first: a signature without its receipt says nothing. */
export async function removeReceipt(home: Home, release: string): Promise<void> {
  await rm(home.receiptSignatureFile(release), { force: true });
  await rm(home.receiptFile(release), { force: true });
}

/**
 * `none`: neither the receipt nor the host speaks of a key. `foreign`: the receipt does not name the key of this host:
 * it was made before that key, or somebody took the name out. `unchecked`: there is a signature, but no host.pub.
 * `missing`, `wrong`: it names a key, and no signature of that key over these bytes is there.
 */
export interface ReceiptSignature {
  state: 'none' | 'signed' | 'foreign' | 'unchecked' | 'missing' | 'wrong';
  key?: string;
}

/**
 * Whether the receipt of a release has the signature that it says it has.
 * @param known the host's key, for callers who have it; else host.pub is read
 */
export async function receiptSignature(
  home: Home,
  receipt: Pick<Receipt, 'release' | 'host'>,
  known?: HostKey,
): Promise<ReceiptSignature> {
  const { release, host } = receipt;
  const key = known?.publicKey ?? (await readHostPublicKey(home));
  if (host === undefined) return { state: key === undefined ? 'none' : 'foreign' };
  const json = await readFile(home.receiptSignatureFile(release)).catch(absent);
  if (json === undefined) return { state: 'missing', ...host };
  if (key === undefined) return { state: 'unchecked', ...host };
  if (fingerprint(key) !== host.key) return { state: 'foreign', ...host };
  const fits = isAttestedBy(key, await readFile(home.receiptFile(release)), json);
  return { state: fits ? 'signed' : 'wrong', ...host };
}
