// SPDX-License-Identifier: Apache-2.0
/** What runs, held against the receipt of the current release. Changes nothing. */
import { readdir } from 'node:fs/promises';
import { SealiftError } from '../errors.ts';
import type { Digest } from '../store/digest.ts';
import { EngineClient, type EngineContainer } from './engine-client.ts';
import type { Home } from './home.ts';
import { readJournal } from './journal.ts';
import { imagesOf } from './targets/compose.ts';
import { readReceipt, receiptSignature, type Receipt, type ReceiptSignature } from './receipt.ts';

export interface ServiceStatus {
  service: string;
  container: string | undefined;
  state: string;
  health: string;
  image: string | undefined;
  expectedImage: Digest;
}

export interface StatusReport {
  schema: 'sealift/status/v1';
  home: string;
  current: Receipt;
  signature: ReceiptSignature;
  /** Releases whose files are here. */
  releases: string[];
  services: ServiceStatus[];
  /** An install that was begun and neither finished nor taken back. */
  unfinished: { release: string; bundle: Digest; startedAt: string } | undefined;
  /** How the host differs from the receipt, one line each; empty means all is as it was proved. */
  drift: string[];
}

/**
 * @param input.socket path of the engine's unix socket
 * @throws {SealiftError} NOT_INSTALLED, ENGINE_NOT_RUNNING, IO_ERROR
 */
export async function readStatus(input: { home: Home; socket: string }): Promise<StatusReport> {
  const { home } = input;
  const release = await home.current();
  const journal = await readJournal(home);
  const receipt = release === undefined ? undefined : await readReceipt(home, release);
  if (receipt === undefined) {
    throw new SealiftError('NOT_INSTALLED', `nothing is installed in ${home.root}`, {
      hint:
        journal === undefined
          ? 'sealift install BUNDLE'
          : `an install of ${journal.release} is unfinished: run it again, or sealift uninstall`,
    });
  }
  const engine = await EngineClient.connect(input.socket);
  const containers =
    receipt.gateway === undefined ? [] : await engine.containers(receipt.gateway.project, 'health');
  const services = expectedServices(receipt).map(([service, image]) => statusOf(service, image, containers));
  const unknown = containers.filter((c) => !services.some((s) => s.service === c.service));
  const signature = await receiptSignature(home, receipt);
  const drift = [
    ...signatureDrift(signature),
    ...services.flatMap(serviceDrift),
    ...unknown.map((c) => `container ${c.name} belongs to the project, and the receipt does not know it`),
    ...(await imageDrift(receipt, engine)),
    ...(await modelDrift(receipt, home)),
  ];
  return {
    schema: 'sealift/status/v1',
    home: home.root,
    current: receipt,
    signature,
    releases: await home.releases(),
    services,
    unfinished: journal && { release: journal.release, bundle: journal.bundle, startedAt: journal.startedAt },
    drift,
  };
}

export function signatureDrift({ state, key }: ReceiptSignature): string[] {
  if (state === 'missing') return [`the receipt has no signature of ${key}, which it names`];
  if (state === 'foreign')
    return [
      'the receipt is not signed by the key of this host: older than the key, or changed since; the same install, run again, signs it',
    ];
  if (state === 'wrong') return [`the receipt is not what ${key} signed`];
  return [];
}

/** Compose services of a receipt with the image each must run. */
function expectedServices({ services, gateway, monitoring, images }: Receipt): [string, Digest][] {
  if (gateway === undefined) return [];
  const id = (name: string): Digest => images.find((image) => image.name === name)!.id;
  const all = services.map((service) => ({ ...service, replicas: service.replicas ?? 1 }));
  return imagesOf(all, gateway.image, monitoring).map(([container, image]) => [container, id(image)]);
}

function statusOf(
  service: string,
  expectedImage: Digest,
  containers: readonly EngineContainer[],
): ServiceStatus {
  const found = containers.find((c) => c.service === service);
  return {
    service,
    container: found?.name,
    state: found?.state ?? 'missing',
    health: found?.health ?? 'none',
    image: found?.image,
    expectedImage,
  };
}

function serviceDrift({ service, state, health, image, expectedImage }: ServiceStatus): string[] {
  if (state === 'missing') return [`service ${service} has no container`];
  return [
    ...(image === expectedImage
      ? []
      : [`service ${service} runs image ${image}, not the proved ${expectedImage}`]),
    ...(state === 'running' ? [] : [`service ${service} is ${state}`]),
    ...(state === 'running' && health !== 'healthy' ? [`service ${service} is ${health}`] : []),
  ];
}

async function imageDrift({ images }: Receipt, engine: EngineClient): Promise<string[]> {
  const found = await Promise.all(images.map(({ ref }) => engine.image(ref)));
  return images.flatMap(({ ref, id }, i) => {
    const now = found[i]?.id;
    if (now === id) return [];
    return [
      now === undefined ? `image ${ref} is gone` : `tag ${ref} now stands on ${now}, not on the proved ${id}`,
    ];
  });
}

/** Names only: `sealift audit` hashes. */
async function modelDrift({ models }: Receipt, home: Home): Promise<string[]> {
  const drift: string[] = [];
  for (const { path, files } of models) {
    const entries = await readdir(home.path(path), { recursive: true, withFileTypes: true }).catch(
      () => undefined,
    );
    const count = entries?.filter((e) => !e.isDirectory()).length;
    if (count === undefined) drift.push(`model folder ${path} is gone`);
    else if (count !== files) drift.push(`model folder ${path} has ${count} files, not ${files}`);
  }
  return drift;
}
