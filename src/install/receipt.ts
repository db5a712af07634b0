// SPDX-License-Identifier: Apache-2.0
/** `receipt.json` of a release: what was installed, how it was proved, what was started, and how to take it back. */
import { readFile } from 'node:fs/promises';
import { z } from 'zod';
import { DigestSchema, Name, Size, Version } from '../bundle/inventory.ts';
import { SealiftError } from '../errors.ts';
import { canonicalJson, parseJson } from '../json.ts';
import { writeFileDurably } from '../store/files.ts';
import { absent, MAX_STATE_BYTES, type Home } from './home.ts';
import { UndoRecord } from './step.ts';

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
    signers: z.array(z.strictObject({ slot: z.number().int(), signer: z.string(), fingerprint: z.string() })),
  }),
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
  services: z.array(
    z.strictObject({ name: Name, engine: Name, image: Name, model: Name, servedModel: z.string() }),
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
  const parsed = Receipt.safeParse(parseJson(bytes, file, 'IO_ERROR', MAX_STATE_BYTES));
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

export async function writeReceipt(home: Home, receipt: Receipt): Promise<void> {
  await writeFileDurably(home.receiptFile(receipt.release), canonicalJson(receipt));
}
