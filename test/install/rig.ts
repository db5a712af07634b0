// SPDX-License-Identifier: Apache-2.0
/** Real bundles for installs: signed, written and opened by the code that does it for everybody. */
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { sizeOf, slices, tinyModel, type ModelFiles } from '../../fixtures/model.ts';
import { Inventory } from '../../src/bundle/inventory.ts';
import { openBundle, type VerifiedBundle } from '../../src/bundle/open.ts';
import { planBundle, writeBundle } from '../../src/bundle/write.ts';
import type { SealiftEvent } from '../../src/events.ts';
import { audit } from '../../src/install/audit.ts';
import { Home } from '../../src/install/home.ts';
import { applyPlan } from '../../src/install/apply.ts';
import type { PlanInput } from '../../src/install/look.ts';
import { planInstall, type Plan } from '../../src/install/plan.ts';
import type { Receipt } from '../../src/install/receipt.ts';
import { canonicalJson } from '../../src/json.ts';
import type { Expected } from '../../src/store/digest.ts';
import { Store } from '../../src/store/store.ts';
import { keySigner } from '../../src/trust/sign.ts';
import { parseTrustPolicy, type TrustPolicy } from '../../src/trust/policy.ts';
import { composePath } from '../support/docker.ts';
import { person, policyText, provenanceOf } from '../support/sample.ts';
import type { Layouts } from '../support/images.ts';
import { HOST_NAME, makeCertificate } from '../support/stack.ts';
import { freePort, tempDir } from '../support/workspace.ts';

const signer = person('release');
export const POLICY_TEXT = policyText([signer]);
export const policy: TrustPolicy = parseTrustPolicy(POLICY_TEXT, 'trust.yaml');

export interface RigImage {
  name: string;
  ref: string;
  /** Folder of an OCI layout with one image. */
  layout: string;
}

/** What CHAT needs. */
export const stackImages = (layouts: Layouts): RigImage[] => [
  { name: 'engine', ref: 'docker.io/vllm/vllm-openai:v0.27.1', layout: layouts.engine },
  { name: 'gateway', ref: 'docker.io/library/nginx:1.29-alpine', layout: layouts.gateway },
];

export interface BundleSpec {
  name?: string;
  version?: string;
  images: RigImage[];
  model?: ModelFiles;
  /** Further parts of the inventory: services, gateway, configs. */
  more?: Partial<Inventory>;
}

export const CHAT: Partial<Inventory> = {
  services: [
    {
      name: 'chat',
      engine: 'vllm',
      image: 'engine',
      model: 'tiny',
      gpus: 0,
      options: { 'max-model-len': 128 },
    },
  ],
  gateway: { image: 'gateway' },
};

export interface RigBundle {
  path: string;
  inventory: Inventory;
  open(): Promise<VerifiedBundle>;
}

export async function makeBundle(spec: BundleSpec): Promise<RigBundle> {
  const store = await Store.open(tempDir('rig-store'));
  const inventory = Inventory.parse({
    apiVersion: 'sealift.dev/v1',
    kind: 'Inventory',
    name: spec.name ?? 'demo',
    version: spec.version ?? '1.0.0',
    platform: process.arch === 'arm64' ? 'linux/arm64' : 'linux/amd64',
    created: '2026-11-23T10:00:00Z',
    images: await Promise.all(spec.images.map((image) => importImage(store, image))),
    models: [
      {
        name: 'tiny',
        from: 'hf:sealift/tiny-chat@main',
        revision: 'c'.repeat(40),
        files: await modelFiles(store, spec.model ?? tinyModel()),
      },
    ],
    configs: [
      { name: 'monitoring/prometheus.yml', ...(await store.addBytes(Buffer.from('scrape_configs: []\n'))) },
    ],
    services: [],
    ...spec.more,
  });
  const plan = await planBundle(inventory, provenanceOf(canonicalJson(inventory)), store);
  const path = join(tempDir('rig-bundle'), `${inventory.name}-${inventory.version}.sealift.tar`);
  await writeBundle(path, plan, [await keySigner(signer.key).sign(plan.sums)], store);
  return { path, inventory, open: () => openBundle(path, { policy, now: new Date() }) };
}

async function importImage(store: Store, { name, ref, layout }: RigImage): Promise<unknown> {
  const read = (digest: string): Buffer =>
    readFileSync(join(layout, 'blobs/sha256', digest.slice('sha256:'.length)));
  const index = JSON.parse(readFileSync(join(layout, 'index.json'), 'utf8')) as {
    manifests: { mediaType: string; digest: string; size: number }[];
  };
  const { mediaType, digest, size } = index.manifests[0]!;
  const manifest = JSON.parse(read(digest).toString()) as {
    config: { digest: string };
    layers: { digest: string }[];
  };
  for (const blob of [digest, manifest.config.digest, ...manifest.layers.map((l) => l.digest)])
    await store.addBytes(read(blob));
  return { name, ref, from: ref, manifest: { mediaType, digest, size } };
}

async function modelFiles(store: Store, files: ModelFiles): Promise<(Expected & { path: string })[]> {
  const added: (Expected & { path: string })[] = [];
  for (const [path, { bytes }] of files) {
    const body = async function* (): AsyncGenerator<Uint8Array> {
      yield* slices(bytes, 0, sizeOf(bytes));
    };
    added.push({ path, ...(await store.addStream(body())) });
  }
  return added.sort((a, b) => (a.path < b.path ? -1 : 1));
}

/** A home as administrators provision it: trust policy, site and TLS files. */
export async function makeHome(): Promise<{ home: Home; port: number }> {
  const root = join(tempDir('rig-home'), 'home');
  mkdirSync(join(root, 'tls'), { recursive: true });
  await makeCertificate(join(root, 'tls/server.crt'), join(root, 'tls/server.key'));
  const port = await freePort();
  writeFileSync(join(root, 'site.yaml'), siteText(port));
  writeFileSync(join(root, 'trust.yaml'), POLICY_TEXT);
  return { home: new Home(root), port };
}

export const siteText = (port: number, more = ''): string =>
  `apiVersion: sealift.dev/v1\nkind: Site\nhostName: ${HOST_NAME}\nlisten: { address: 127.0.0.1, port: ${port} }\ntls: { certificate: tls/server.crt, key: tls/server.key }\n${more}`;

/** What curl is told for one question to the model of CHAT; the last line of its answer is the status. */
export function chatQuestion(home: Home, port: number, key: string, more: object = {}): string[] {
  const body = JSON.stringify({ model: 'tiny', messages: [{ role: 'user', content: 'hello' }], ...more });
  const trust = ['--cacert', home.path('tls/server.crt'), '--resolve', `${HOST_NAME}:${port}:127.0.0.1`];
  const headers = ['-H', 'Content-Type: application/json', '-H', `Authorization: Bearer ${key}`];
  const quiet = ['-q', '-sS', '--max-time', '5', '-w', '\n%{http_code}'];
  return [...quiet, ...trust, ...headers, '-d', body, `https://${HOST_NAME}:${port}/v1/chat/completions`];
}

/** What an audit finds, a line each. */
export async function auditLines(home: Home, socket: string): Promise<string[]> {
  const { findings } = await audit({ home, socket, policy, now: new Date() });
  return findings.map(({ what, subject, problem }) => `${what} ${subject}: ${problem}`);
}

export interface Installer {
  home: Home;
  events: SealiftEvent[];
  input: PlanInput;
  plan(bundle: VerifiedBundle): Promise<Plan>;
  install(bundle: RigBundle, signal?: AbortSignal): Promise<Receipt>;
}

/** An installer with an engine; what it says is kept in `events`. */
export function installer(home: Home, socket: string, more: Partial<PlanInput> = {}): Installer {
  const events: SealiftEvent[] = [];
  const emit = (event: SealiftEvent): unknown => events.push(event);
  const input: PlanInput = {
    home,
    socket,
    path: process.env.PATH ?? '/usr/bin',
    compose: composePath()!,
    now: () => new Date(),
    emit,
    readyTimeoutSeconds: 60,
    ...more,
  };
  const plan = (bundle: VerifiedBundle): Promise<Plan> => planInstall(bundle, input);
  return {
    home,
    events,
    input,
    plan,
    install: async (rig, signal) => {
      const bundle = await rig.open();
      try {
        return await applyPlan(await plan(bundle), { emit, ...(signal === undefined ? {} : { signal }) });
      } finally {
        await bundle.close();
      }
    },
  };
}
