// SPDX-License-Identifier: Apache-2.0
/**
 * Whether the enclave will be able to run what is going to be carried: options that the engine's release knows, and
 * models that it can serve as they are. Asked before anything large is fetched, with the few documents that say so.
 */
import type { Inventory, InventoryModel } from '../bundle/inventory.ts';
import { checkModel, isLookedInto, type ModelFolder } from '../engines/model.ts';
import { rowOf, servicesOf, type ServiceSpec } from '../engines/index.ts';
import { checkOption, releaseOf, type Finding } from '../engines/options.ts';
import { SealiftError } from '../errors.ts';
import { objectOf, parseJson } from '../json.ts';
import { digestOf, type Digest } from '../store/digest.ts';
import { readFileChunks } from '../store/files.ts';
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
  const services = servicesOf(inventory); // what the installer would refuse is refused here
  const byDigest = new Map(needs.map((need) => [need.digest, need]));
  const folders = new Map<string, ModelFolder>(); // several services may have one model
  const carried = { models: inventory.models.map(({ name }) => name), configs: inventory.configs };
  const problems: (readonly [string, Finding])[] = [];
  for (const spec of inventory.services) {
    const model = inventory.models.find(({ name }) => name === spec.model)!;
    const folder = folders.get(model.name) ?? (await lookInto(model, byDigest, context));
    folders.set(model.name, folder);
    const { purpose } = services.find(({ name }) => name === spec.name)!;
    const findings = [
      ...optionFindings(spec, inventory),
      ...checkModel(rowOf(spec), spec, purpose, folder, carried),
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
  const release = releaseOf(images.find(({ name }) => name === spec.image)?.ref ?? '');
  return Object.keys(spec.options).flatMap((name) => checkOption(name, options, title, release) ?? []);
}

async function lookInto(
  model: InventoryModel,
  needs: ReadonlyMap<Digest, Need>,
  context: SourceContext,
): Promise<ModelFolder> {
  const documents = new Map<string, ReturnType<ModelFolder['json']>>();
  for (const { path, digest, size } of model.files) {
    const need = needs.get(digest);
    if (need === undefined || !isLookedInto(path) || size > MAX_DOCUMENT_BYTES) continue;
    const bytes = await contentOf(need, context);
    const what = `${model.name}/${path}`;
    documents.set(path, objectOf(parseJson(bytes, what, 'SERVICE_UNFIT', MAX_DOCUMENT_BYTES)));
  }
  return { files: model.files, json: (path) => documents.get(path) };
}

/** Not more than the lock says: a file may have grown since. */
async function readUpTo(path: string, size: number): Promise<Buffer> {
  const chunks: Buffer[] = [];
  for await (const chunk of readFileChunks(path, 0, size)) chunks.push(chunk);
  return Buffer.concat(chunks);
}

/** From the store, from where it lies on this machine, or fetched into the store. */
async function contentOf(need: Need, context: SourceContext): Promise<Buffer> {
  const { store, emit, signal } = context;
  const stored = await store.readIfSound(need, MAX_DOCUMENT_BYTES, emit);
  if (stored !== undefined) return stored;
  const source = await need.find();
  if (source.path !== undefined) {
    const bytes = await readUpTo(source.path, need.size);
    if (digestOf(bytes) === need.digest) return bytes;
  }
  await store.add(need, source, { what: need.label, ...(signal && { signal }) });
  return store.readBytes(need, MAX_DOCUMENT_BYTES);
}
