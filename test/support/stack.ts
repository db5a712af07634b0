// SPDX-License-Identifier: Apache-2.0
/** The two sides of the air gap, made of real parts: what the demo and the end-to-end tests stand on. */
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { tinyModel, type ModelFiles } from '../../fixtures/model.ts';
import { startHub, type HubFixture } from './hub.ts';
import { assembleImages, pushImages, tinyImage } from './images.ts';
import { composePath, type DockerEngine } from './docker.ts';
import { startRegistry, type Registry } from './registry.ts';
import { repoRoot, run, runOk, tempDir, type RunOptions, type RunResult } from './workspace.ts';

/** Where the manifest of the demo says its images are. */
const IMAGES = { engine: 'vllm/vllm-openai:v0.27.1', gateway: 'library/nginx:1.29-alpine' };
export const MODEL = 'sealift/tiny-chat';
export const HOST_NAME = 'llm.enclave.test';

export interface Staging {
  registry: Registry;
  hub: HubFixture;
  /** Flags that lead `lock` and `build` to these servers. */
  flags: string[];
  stop(): Promise<void>;
}

/** Registry and hub on the loopback, holding what manifests/demo.yaml asks for. */
export async function startStaging(dir: string, files: ModelFiles = tinyModel()): Promise<Staging> {
  mkdirSync(dir, { recursive: true });
  const registry = await startRegistry({ dir: join(dir, 'registry') });
  const hub = await startHub({ models: [{ name: MODEL, files }], pageSize: 5 });
  await pushImages(await assembleImages(join(dir, 'images')), registry.host, { names: IMAGES });
  return {
    registry,
    hub,
    flags: ['--mirror', `docker.io=${registry.url}`, '--hub', hub.url, '--store', join(dir, 'store')],
    stop: async () => {
      await hub.stop();
      await registry.stop();
    },
  };
}

/** Only the hub, and the images as OCI layouts under `dir`/images: for machines without a registry. */
export async function startHubOnly(dir: string): Promise<Pick<Staging, 'flags' | 'stop'>> {
  for (const name of ['engine', 'gateway'])
    tinyImage({ name, payload: `stand-in for the ${name}\n`, dir: join(dir, 'images', name) });
  const hub = await startHub({ models: [{ name: MODEL, files: tinyModel() }] });
  return { flags: ['--hub', hub.url, '--store', join(dir, 'store')], stop: () => hub.stop() };
}

/** The built programs; scripts/build.ts makes them. */
export const PROGRAM = {
  outside: join(repoRoot, 'dist/sealift.mjs'),
  inside: join(repoRoot, 'dist/enclave.mjs'),
};

/** Runs a built program with this Node. */
export function sealift(
  args: string[],
  options: RunOptions & { side?: 'outside' | 'inside' } = {},
): Promise<RunResult> {
  return run(process.execPath, [PROGRAM[options.side ?? 'outside'], ...args], options);
}

/** Flags that lead the installer to an engine, and to the Compose plug-in that scripts/setup unpacked. */
export function engineFlags(engine: DockerEngine): string[] {
  const compose = composePath();
  return ['--engine', engine.socket, ...(compose === undefined ? [] : ['--compose', compose])];
}

export interface Keys {
  private: string;
  public: string;
  /** File that holds the passphrase. */
  passphrase: string;
  /** Flags for `build` and `sign`. */
  flags: string[];
}

/** Makes a signing key with `sealift keygen`. */
export async function makeKeys(dir: string, name = 'release'): Promise<Keys> {
  const passphrase = join(dir, `${name}.passphrase`);
  writeFileSync(passphrase, 'correct horse battery staple\n', { mode: 0o600 });
  const file = join(dir, `${name}.key`);
  const made = await sealift(['keygen', '-o', file, '--passphrase-file', passphrase]);
  if (made.code !== 0) throw new Error(made.stderr);
  return {
    private: file,
    public: join(dir, `${name}.pub`),
    passphrase,
    flags: ['--key', file, '--passphrase-file', passphrase],
  };
}

/** A home as the enclave's administrators provision it out of band: trust policy, site, TLS files. */
export async function provisionHome(
  home: string,
  publicKeys: readonly string[],
  port: number,
  threshold = 1,
): Promise<void> {
  mkdirSync(join(home, 'tls'), { recursive: true });
  const signers = publicKeys.map(
    (pem, i) => `  - name: release-${i + 1}\n    publicKey: |\n${pem.trim().replace(/^/gm, '      ')}\n`,
  );
  writeFileSync(
    join(home, 'trust.yaml'),
    `apiVersion: sealift.dev/v1\nkind: TrustPolicy\nversion: 1\nthreshold: ${threshold}\nsigners:\n${signers.join('')}`,
  );
  await makeCertificate(join(home, 'tls/server.crt'), join(home, 'tls/server.key'));
  writeFileSync(
    join(home, 'site.yaml'),
    [
      'apiVersion: sealift.dev/v1',
      'kind: Site',
      `hostName: ${HOST_NAME}`,
      `listen: { address: 127.0.0.1, port: ${port} }`,
      'tls: { certificate: tls/server.crt, key: tls/server.key }',
      '',
    ].join('\n'),
  );
}

export async function makeCertificate(
  certificate: string,
  key: string,
  { expired = false }: { expired?: boolean } = {},
): Promise<void> {
  const names = ['-subj', `/CN=${HOST_NAME}`, '-addext', `subjectAltName=DNS:${HOST_NAME}`];
  if (expired) return makeExpired(certificate, key, names);
  const subject = [...names, '-days', '30'];
  const curve = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes'];
  await runOk('openssl', ['req', '-x509', ...curve, ...subject, '-keyout', key, '-out', certificate]);
}

/** `req -x509` cannot end in the past before openssl 3.4; a little authority of its own can. */
async function makeExpired(certificate: string, key: string, names: string[]): Promise<void> {
  const dir = tempDir('expired');
  const [request, own] = [join(dir, 'request'), join(dir, 'own.crt')];
  const curve = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes'];
  await runOk('openssl', ['req', '-new', ...curve, ...names, '-keyout', key, '-out', request]);
  await runOk('openssl', ['req', '-x509', '-key', key, '-subj', '/CN=own', '-days', '30', '-out', own]);
  writeFileSync(join(dir, 'index'), '');
  writeFileSync(
    join(dir, 'ca.cnf'),
    `[ca]\ndefault_ca=own\n[own]\ndatabase=${dir}/index\nnew_certs_dir=${dir}\ndefault_md=sha256\npolicy=any\nrand_serial=yes\n[any]\ncommonName=supplied\n`,
  );
  const dates = ['-startdate', '20200101000000Z', '-enddate', '20200201000000Z'];
  const by = ['-config', join(dir, 'ca.cnf'), '-cert', own, '-keyfile', key, '-batch', '-notext'];
  await runOk('openssl', ['ca', ...by, ...dates, '-in', request, '-out', certificate]);
}
