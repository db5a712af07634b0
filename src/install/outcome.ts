// SPDX-License-Identifier: Apache-2.0
/** What became of the steps of an install, and the receipt that is made of it. */
import { apiKeysFile } from './api-keys.ts';
import { expectedId } from './engine-client.ts';
import type { Expected } from '../store/digest.ts';
import type { VerifiedBundle } from '../bundle/open.ts';
import type { Service } from '../engines/index.ts';
import { releaseName } from './home.ts';
import type { Override } from './override.ts';
import type { Receipt } from './receipt.ts';
import { gatewayUrl, type Site } from './site.ts';
import type { SmokeAnswer } from './smoke.ts';
import type { Step, World } from './step.ts';
import { configsPath } from './steps/config.ts';
import { howProved } from './steps/image.ts';
import { gatewayService, projectName } from './targets/compose.ts';
import { policyId } from '../trust/state.ts';
import type { FullReceipt } from './vsa.ts';

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
  /** What a person has overridden, now or in an earlier install of the same bundle. */
  overrides: readonly Override[];
  /** Fingerprint of the key that signs the receipt. */
  hostKey: string | undefined;
  now: Date;
}

export function makeReceipt(input: ReceiptInput): FullReceipt {
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
      signers: verdict.accepted.map(signatory),
    },
    ...judgement(input),
    engine: { version, apiVersion, platform, store },
    ...(input.compose === undefined ? {} : { compose: input.compose }),
    images: bundle.images.map((image) => ({
      name: image.name,
      ref: image.ref,
      id: expectedId(image, store),
      manifest: image.manifest.digest,
      layers: image.diffIds,
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

/** One who signed, as far as is known: a key, or an identity that a certificate vouched for at some time. */
interface Signatory {
  slot: number;
  signer: string;
  fingerprint?: string;
  identity?: { subject: string; issuer: string };
  signedAt?: Date;
}

function signatory({
  slot,
  signer,
  fingerprint,
  identity,
  signedAt,
}: Signatory): Receipt['signatures']['signers'][number] {
  return {
    slot,
    signer,
    ...(fingerprint !== undefined && { fingerprint }),
    ...(identity && { identity: { subject: identity.subject, issuer: identity.issuer } }),
    ...(signedAt && { signedAt: signedAt.toISOString() }),
  };
}

/** By what policy and at what time it was judged, and what a person has overridden of it. */
function judgement({
  bundle,
  overrides,
  hostKey,
  now,
}: ReceiptInput): Pick<FullReceipt, 'policy' | 'time' | 'provenance' | 'overrides' | 'host'> {
  return {
    policy: policyId(bundle.policy),
    time: { clock: now.toISOString(), judged: bundle.judgedAt.toISOString() },
    provenance: { ...bundle.provenance },
    ...(overrides.length > 0 && { overrides: overrides.map((o) => ({ ...o })) }),
    ...(hostKey !== undefined && { host: { key: hostKey } }),
  };
}

function content({ bundle, modelPaths }: ReceiptInput): Pick<Receipt, 'models' | 'configs' | 'holds'> {
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
    holds: heldBy(bundle),
  };
}

/** Each layer and file once, by digest: what a delta on this receipt may leave out. */
function heldBy({ images, inventory }: ReceiptInput['bundle']): NonNullable<Receipt['holds']> {
  const all: Expected[] = [
    ...images.flatMap(({ layers }) => layers),
    ...inventory.models.flatMap(({ files }) => files),
    ...inventory.configs,
  ];
  return [...new Map(all.map(({ digest, size }) => [digest, size]))]
    .map(([digest, size]) => ({ digest, size }))
    .toSorted((a, b) => (a.digest < b.digest ? -1 : 1));
}

function serving({
  bundle,
  world,
  services,
  site,
  smoke,
}: ReceiptInput): Pick<Receipt, 'services' | 'gateway' | 'monitoring' | 'smoke'> {
  const running = services.map(({ name, engine, image, model, servedModel, replicas }) => ({
    name,
    engine,
    image,
    model,
    servedModel,
    ...(replicas === 1 ? {} : { replicas }),
  }));
  if (site === undefined) return { services: running, smoke: [] };
  return {
    services: running,
    gateway: {
      project: projectName(bundle.inventory.name),
      service: gatewayService(services),
      image: bundle.inventory.gateway!.image,
      url: gatewayUrl(site),
      apiKeys: apiKeysFile(site, world.home),
    },
    ...(bundle.inventory.monitoring && { monitoring: bundle.inventory.monitoring }),
    smoke: [...smoke],
  };
}
