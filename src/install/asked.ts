// SPDX-License-Identifier: Apache-2.0
/** What a bundle asks of a host's GPUs and memory, from its inventory and the two documents that say more. */
import type { ModelFile } from '../bundle/inventory.ts';
import type { VerifiedBundle, VerifiedImage } from '../bundle/open.ts';
import type { Service } from '../engines/index.ts';
import { objectOf, parseJson } from '../json.ts';
import type { Expected } from '../store/digest.ts';
import type { Asked, AskedService } from './doctor.ts';
import { demandMeant, shareGpus } from './gpus.ts';
import type { Site } from './site.ts';

/** A config.json of a model, in bytes; the largest that were seen have 100,000. */
const MAX_CONFIG_BYTES = 4 * 1024 * 1024;
/** What an engine loads, the first of these that there is; a folder may hold the same in another form, too. */
const WEIGHTS = [/\.safetensors$/, /^[^/]+\.(bin|pt|pth)$/];

/** Bytes of the weights that are served: of several GGUF files one, with its shards. */
function weightBytes(service: Service, files: readonly ModelFile[]): number {
  const named = service.command
    .find((argument) => argument.endsWith('.gguf'))
    ?.split('/')
    .slice(3)
    .join('/');
  const stem = named?.replace(/-\d{5}-of-\d{5}\.gguf$/, '');
  const gguf = files.filter(({ path }) => stem !== undefined && path.startsWith(stem));
  const forms = [gguf, ...WEIGHTS.map((form) => files.filter(({ path }) => form.test(path)))];
  return (forms.find((form) => form.length > 0) ?? []).reduce((sum, { size }) => sum + size, 0);
}

/** @throws {SealiftError} SITE_INVALID; CONTENT_MISMATCH, and what reading the medium throws */
export async function askedOf(
  bundle: VerifiedBundle,
  services: readonly Service[],
  site: Site,
): Promise<Asked> {
  const { inventory, images } = bundle;
  demandMeant(services, site);
  const shares = shareGpus(services, site);
  const asked: AskedService[] = [];
  for (const service of services) {
    const model = inventory.models.find(({ name }) => name === service.model)!;
    asked.push({
      service,
      spec: inventory.services.find(({ name }) => name === service.name)!,
      weights: weightBytes(service, model.files),
      config: await configOf(
        bundle,
        model.files.find(({ path }) => path === 'config.json'),
      ),
      cuda: cudaOf(images.find(({ name }) => name === service.image)),
      gpus: shares.get(service.name)!,
    });
  }
  return { services: asked };
}

/** undefined when a delta leaves it out, or there is none. */
async function configOf(bundle: VerifiedBundle, file: Expected | undefined): Promise<AskedService['config']> {
  if (file === undefined || file.size > MAX_CONFIG_BYTES) return undefined;
  if (bundle.inventory.base?.omits.some(({ digest }) => digest === file.digest)) return undefined;
  const chunks: Buffer[] = [];
  for await (const chunk of bundle.blob(file)) chunks.push(chunk);
  try {
    return objectOf(parseJson(Buffer.concat(chunks), 'config.json', 'CONTENT_MISMATCH', MAX_CONFIG_BYTES));
  } catch {
    return undefined; // the engine will say what it thinks of it
  }
}

/** NVIDIA's base images set CUDA_VERSION. */
function cudaOf(image: VerifiedImage | undefined): string | undefined {
  if (image === undefined) return undefined;
  const config = objectOf(objectOf(JSON.parse(image.configBytes.toString()))?.['config']);
  const env: unknown = config?.['Env'];
  const lines = Array.isArray(env) ? env.filter((line) => typeof line === 'string') : [];
  return lines.flatMap((line) => /^CUDA_VERSION=(\d+\.\d+)/.exec(line)?.[1] ?? [])[0];
}
