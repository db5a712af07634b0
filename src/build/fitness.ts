// SPDX-License-Identifier: Apache-2.0
/**
 * Whether the enclave will be able to run what is going to be carried: options that the engine's release knows, and
 * models that it can serve as they are. Asked before anything large is fetched, with the few documents that say so.
 */
import { readFile } from 'node:fs/promises';
import type { Inventory } from '../bundle/inventory.ts';
import { checkModel, isLookedInto, type Finding, type ModelFolder } from '../engines/model.ts';
import { rowOf, servicesOf, type ServiceSpec } from '../engines/index.ts';
import { checkOption, releaseOf } from '../engines/options.ts';
import { SealiftError } from '../errors.ts';
import { parseJson } from '../json.ts';
import { digestOf, type Digest } from '../store/digest.ts';
import type { Need } from './gather.ts';
import type { SourceContext } from './sources/source.ts';

/** Of one document; the index of a model with 100,000 tensors has 10 MB. */
const MAX_DOCUMENT_BYTES = 64 * 1024 * 1024;

/**
 * @param needs what the lock names, by which documents are found
 * @throws {SealiftError} SERVICE_UNFIT, with every reason; SERVICE_UNSUPPORTED; what sources throw
 */
export async function checkServices(
  inventory: Inventory,
  needs: readonly Need[],
  context: SourceContext,
): Promise<void> {
  servicesOf(inventory); // what the installer would refuse is refused here
  const byDigest = new Map(needs.map((need) => [need.digest, need]));
  const problems: (readonly [string, Finding])[] = [];
  for (const spec of inventory.services) {
    const findings = [
      ...optionFindings(spec, inventory),
      ...(await modelFindings(spec, inventory, byDigest, context)),
    ];
    problems.push(...findings.map((finding) => [spec.name, finding] as const));
  }
  for (const [name, { severity, message, hint }] of problems) {
    if (severity !== 'warning') continue;
    const more = hint === undefined ? '' : ` (${hint})`;
    context.emit({ type: 'warning', code: 'SERVICE_UNFIT', message: `service ${name}: ${message}${more}` });
  }
  const [first, ...others] = problems.filter(([, { severity }]) => severity === 'error');
  if (first === undefined) return;
  throw new SealiftError('SERVICE_UNFIT', `service ${first[0]}: ${first[1].message}`, {
    details: others.map(([name, { message }]) => ['also', `service ${name}: ${message}`]),
    ...(first[1].hint === undefined ? {} : { hint: first[1].hint }),
  });
}

function optionFindings(spec: ServiceSpec, { images }: Inventory): Finding[] {
  const { options, title } = rowOf(spec);
  const ref = images.find(({ name }) => name === spec.image)?.ref ?? '';
  return Object.keys(spec.options).flatMap((name) => checkOption(name, options, title, releaseOf(ref)) ?? []);
}

async function modelFindings(
  spec: ServiceSpec,
  inventory: Inventory,
  needs: ReadonlyMap<Digest, Need>,
  context: SourceContext,
): Promise<Finding[]> {
  const model = inventory.models.find(({ name }) => name === spec.model)!;
  const documents = new Map<string, Readonly<Record<string, unknown>>>();
  for (const { path, digest, size } of model.files) {
    const need = needs.get(digest);
    if (need === undefined || !isLookedInto(path) || size > MAX_DOCUMENT_BYTES) continue;
    const value = parseJson(
      await contentOf(need, context),
      `${model.name}/${path}`,
      'SERVICE_UNFIT',
      MAX_DOCUMENT_BYTES,
    );
    if (typeof value === 'object' && value !== null && !Array.isArray(value))
      documents.set(path, value as Readonly<Record<string, unknown>>);
  }
  const folder: ModelFolder = { files: model.files, json: (path) => documents.get(path) };
  const carried = { models: inventory.models.map(({ name }) => name), configs: inventory.configs };
  return checkModel(rowOf(spec), spec, folder, carried);
}

/** From the store, from where it lies on this machine, or fetched into the store. */
async function contentOf(need: Need, context: SourceContext): Promise<Buffer> {
  const { store, emit, signal } = context;
  const stored = await store.readIfSound(need, MAX_DOCUMENT_BYTES, emit);
  if (stored !== undefined) return stored;
  const source = await need.find();
  if (source.path !== undefined) {
    const bytes = await readFile(source.path);
    if (digestOf(bytes) === need.digest) return bytes;
  }
  await store.add(need, source, { what: need.label, ...(signal && { signal }) });
  return store.readBytes(need, MAX_DOCUMENT_BYTES);
}
