// SPDX-License-Identifier: Apache-2.0
/** What became of the steps of an install, and the receipt that is made of it. */
import type { VerifiedBundle } from '../bundle/open.ts';
import type { Service } from './engines.ts';
import { releaseName } from './home.ts';
import type { Receipt } from './receipt.ts';
import { apiKeysFile, type Site } from './site.ts';
import type { SmokeAnswer } from './smoke.ts';
import type { Step, World } from './step.ts';
import { configsPath } from './steps/config.ts';
import { expectedId, howProved } from './steps/image.ts';
import { gatewayService, projectName } from './targets/compose.ts';

export interface Outcomes {
  list: { step: Step; outcome: 'done' | 'kept' }[];
  /** Ids of steps that this home placed, in this install or an earlier one. */
  brought: Set<string>;
  startedAt: Date;
}

export interface ReceiptInput {
  bundle: VerifiedBundle;
  world: World;
  /** Version of Compose, for a bundle with services. */
  compose: string | undefined;
  outcomes: Outcomes;
  modelPaths: ReadonlyMap<string, string>;
  services: readonly Service[];
  site: Site | undefined;
  smoke: readonly SmokeAnswer[];
  now: Date;
}

export function makeReceipt(input: ReceiptInput): Receipt {
  const { bundle, outcomes, world } = input;
  const { inventory, verdict } = bundle;
  const { version, apiVersion, platform, store } = world.engine.facts;
  return {
    schema: 'sealift/receipt/v1',
    bundle: {
      name: inventory.name,
      version: inventory.version,
      digest: bundle.digest,
      created: inventory.created,
    },
    release: releaseName(inventory),
    signatures: {
      threshold: verdict.threshold,
      policyVersion: verdict.policyVersion,
      signers: verdict.accepted.map(({ slot, signer, fingerprint }) => ({ slot, signer, fingerprint })),
    },
    engine: { version, apiVersion, platform, store },
    ...(input.compose === undefined ? {} : { compose: input.compose }),
    images: bundle.images.map((image) => ({
      name: image.name,
      ref: image.ref,
      id: expectedId(image, store),
      manifest: image.manifest.digest,
      proof: howProved(store),
    })),
    ...content(input),
    ...serving(input),
    startedAt: outcomes.startedAt.toISOString(),
    finishedAt: input.now.toISOString(),
    steps: outcomes.list.map(({ step, outcome }) => ({
      id: step.id,
      outcome,
      brought: outcomes.brought.has(step.id),
      record: step.record,
    })),
  };
}

function content({ bundle, modelPaths }: ReceiptInput): Pick<Receipt, 'models' | 'configs'> {
  const { models, configs } = bundle.inventory;
  return {
    models: models.map(({ name, revision, files }) => ({
      name,
      revision,
      path: modelPaths.get(name)!,
      files: files.length,
      bytes: files.reduce((sum, file) => sum + file.size, 0),
    })),
    ...(configs.length === 0 ? {} : { configs: { path: configsPath(configs), files: configs.length } }),
  };
}

function serving({
  bundle,
  world,
  services,
  site,
  smoke,
}: ReceiptInput): Pick<Receipt, 'services' | 'gateway' | 'smoke'> {
  const running = services.map(({ name, engine, image, model, servedModel }) => ({
    name,
    engine,
    image,
    model,
    servedModel,
  }));
  if (site === undefined) return { services: running, smoke: [] };
  const { hostName, listen } = site;
  return {
    services: running,
    gateway: {
      project: projectName(bundle.inventory.name),
      service: gatewayService(services),
      image: bundle.inventory.gateway!.image,
      url: `https://${hostName}${listen.port === 443 ? '' : `:${listen.port}`}`,
      apiKeys: apiKeysFile(site, world.home),
    },
    smoke: [...smoke],
  };
}
