// SPDX-License-Identifier: Apache-2.0
//
// The real cosign, 2.5 and 3.1 (scripts/setup cosign), against the registry on the loopback: with keys, and
// without, against a Sigstore instance on the loopback. Nothing here reaches for the public instance.
import { createHash } from 'node:crypto';
import type { IncomingMessage, ServerResponse } from 'node:http';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { bodyOf, listen } from './serve.ts';
import type { SigstoreInstance } from './sigstore.ts';
import { makeDir, repoRoot, run, tempDir, withSystemPath, type RunResult } from './workspace.ts';

export type CosignVersion = '2.5' | '3.1';

const BINARIES: Record<CosignVersion, string> = {
  '2.5': join(repoRoot, '.cache/cosign/trixie/usr/bin/cosign'),
  '3.1': join(repoRoot, '.cache/cosign/sid/usr/bin/cosign'),
};

/** Only what cosign needs, and a home of its own: it caches what it believes of Sigstore there. */
const environment = (more: NodeJS.ProcessEnv = {}): NodeJS.ProcessEnv => ({
  PATH: withSystemPath(process.env)['PATH'],
  HOME: (home ??= tempDir('cosign-home')),
  COSIGN_PASSWORD: '',
  ...more,
});
let home: string | undefined;

export function cosign(
  version: CosignVersion,
  args: readonly string[],
  env: NodeJS.ProcessEnv = {},
  cwd?: string,
): Promise<RunResult> {
  return run(BINARIES[version], [...args], {
    env: environment(env),
    timeout: 60_000,
    ...(cwd ? { cwd } : {}),
  });
}

/** Like cosign(), but anything but success is an error that shows what it said. */
export async function cosignOk(...given: Parameters<typeof cosign>): Promise<RunResult> {
  const result = await cosign(...given);
  if (result.code === 0) return result;
  throw new Error(`cosign ${given[1].join(' ')} ended with ${result.code}: ${result.stderr.slice(0, 3000)}`);
}

export interface CosignKey {
  privateKey: string;
  publicKey: string;
}

/** A key pair as cosign makes it, or one of openssl's that it takes over. */
export async function cosignKey(pem?: string): Promise<CosignKey> {
  const dir = tempDir('cosign-key');
  if (pem === undefined) await cosignOk('3.1', ['generate-key-pair'], {}, dir);
  else {
    writeFileSync(join(dir, 'plain.pem'), pem);
    await cosignOk(
      '3.1',
      ['import-key-pair', '--key', 'plain.pem', '--output-key-prefix', 'cosign'],
      {},
      dir,
    );
  }
  return { privateKey: join(dir, 'cosign.key'), publicKey: join(dir, 'cosign.pub') };
}

/** A trusted root and a signing config that name nobody, so that cosign asks nobody. */
function nobody(): string[] {
  const dir = makeDir(tempDir('nobody'));
  const mediaType = 'application/vnd.dev.sigstore';
  writeFileSync(
    join(dir, 'root.json'),
    JSON.stringify({ mediaType: `${mediaType}.trustedroot+json;version=0.1` }),
  );
  writeFileSync(
    join(dir, 'config.json'),
    JSON.stringify({ mediaType: `${mediaType}.signingconfig.v0.2+json`, rekorTlogConfig: {}, tsaConfig: {} }),
  );
  return ['--signing-config', join(dir, 'config.json'), '--trusted-root', join(dir, 'root.json')];
}

export type SignatureForm = 'bundle' | 'legacy';

/** Signs `HOST/REPOSITORY@DIGEST` with a key: as a bundle with cosign 3.1, in the older form with 2.5. */
export async function signImage(
  reference: string,
  { privateKey }: CosignKey,
  form: SignatureForm,
  more: readonly string[] = [],
): Promise<void> {
  const version = form === 'bundle' ? '3.1' : '2.5';
  const alone = form === 'bundle' ? nobody() : ['--tlog-upload=false'];
  await cosignOk(version, [
    'sign',
    '--key',
    privateKey,
    '--allow-http-registry',
    '--yes',
    ...alone,
    ...more,
    reference,
  ]);
}

// --- without a key -------------------------------------------------------------------------------------

export interface KeylessFront {
  url: string;
  close(): Promise<void>;
}

/**
 * The instance as cosign's clients speak to it: they send the token in a header, cosign 2 uses Fulcio's first API,
 * and Rekor logs hashes in place of an envelope.
 */
export async function startKeylessFront(sigstore: SigstoreInstance): Promise<KeylessFront> {
  const front = await listen('127.0.0.1', (request, response) => translate(sigstore.url, request, response));
  return { url: `http://127.0.0.1:${front.port}`, close: () => front.close() };
}

async function translate(
  upstream: string,
  request: IncomingMessage,
  response: ServerResponse,
): Promise<void> {
  const path = request.url ?? '/';
  const body = JSON.parse((await bodyOf(request)).toString()) as Record<string, unknown>;
  const token = (request.headers.authorization ?? '').replace(/^Bearer /, '');
  const first = path === '/api/v1/signingCert';
  const asked = path.endsWith('/signingCert')
    ? certificateRequest(body, token)
    : asLogged(body as unknown as Proposal);
  const answer = await fetch(`${upstream}${first ? '/api/v2/signingCert' : path}`, {
    method: 'POST',
    body: JSON.stringify(asked),
  });
  const text = await answer.text();
  const isCertificate = path.endsWith('/signingCert') && answer.ok;
  // Fulcio's second API answers 200 where the mock says 201, and the first 201 with PEM.
  if (isCertificate && first) {
    response.writeHead(201, { 'content-type': 'application/pem-certificate-chain' }).end(chainOf(text));
    return;
  }
  // cosign finds its entry under the name that the ETag gives.
  const etag = isCertificate || !answer.ok ? {} : { etag: Object.keys(JSON.parse(text) as object)[0] };
  response
    .writeHead(isCertificate ? 200 : answer.status, { 'content-type': 'application/json', ...etag })
    .end(text);
}

function certificateRequest(body: Record<string, unknown>, token: string): object {
  const credentials = { oidcIdentityToken: token };
  if ('publicKeyRequest' in body) return { ...body, credentials };
  const { publicKey, signedEmailAddress } = body as {
    publicKey: { content: string };
    signedEmailAddress: string;
  };
  const decoded = Buffer.from(publicKey.content, 'base64').toString('latin1');
  const content = decoded.startsWith('-----BEGIN') ? decoded : pem('PUBLIC KEY', publicKey.content);
  const publicKeyRequest = {
    publicKey: { algorithm: 'ECDSA', content },
    proofOfPossession: signedEmailAddress,
  };
  return { credentials, publicKeyRequest };
}

function chainOf(text: string): string {
  const answer: { signedCertificateEmbeddedSct: { chain: { certificates: string[] } } } = JSON.parse(text);
  return answer.signedCertificateEmbeddedSct.chain.certificates.map((pem) => `${pem.trim()}\n`).join('');
}

interface Proposal {
  kind: string;
  spec: { proposedContent?: { envelope: string; verifiers: string[] } };
}

function asLogged(proposal: Proposal): object {
  const { proposedContent } = proposal.spec;
  if (proposal.kind !== 'dsse' || proposedContent === undefined) return proposal;
  const { envelope, verifiers } = proposedContent;
  const { payload, signatures }: { payload: string; signatures: { sig: string }[] } = JSON.parse(envelope);
  const hashOf = (data: string | Buffer): object => ({
    algorithm: 'sha256',
    value: createHash('sha256').update(data).digest('hex'),
  });
  return {
    apiVersion: '0.0.1',
    kind: 'dsse',
    spec: {
      envelopeHash: hashOf(envelope),
      payloadHash: hashOf(Buffer.from(payload, 'base64')),
      signatures: signatures.map(({ sig }, i) => ({ signature: sig, verifier: verifiers[i] })),
    },
  };
}

/** Signs without a key, as that subject by that issuer. */
export async function signKeyless(
  reference: string,
  sigstore: SigstoreInstance,
  front: KeylessFront,
  { identity, issuer }: { identity: string; issuer: string },
  form: SignatureForm,
): Promise<void> {
  const dir = tempDir('keyless');
  const write = (name: string, text: string): string => {
    writeFileSync(join(dir, name), text);
    return join(dir, name);
  };
  const token = write('token', sigstore.token(identity, issuer));
  const args = ['sign', '--allow-http-registry', '--yes', '--identity-token', token];
  if (form === 'bundle') {
    const root = write('root.json', sigstore.trustedRoot);
    const config = write('config.json', JSON.stringify(signingConfig(front.url)));
    await cosignOk('3.1', [...args, '--signing-config', config, '--trusted-root', root, reference]);
    return;
  }
  const root = JSON.parse(sigstore.trustedRoot) as TrustedRoot;
  await cosignOk('2.5', [...args, '--fulcio-url', front.url, '--rekor-url', front.url, reference], {
    SIGSTORE_ROOT_FILE: write(
      'ca.pem',
      pem('CERTIFICATE', root.certificateAuthorities[0]!.certChain.certificates[0]!.rawBytes),
    ),
    SIGSTORE_REKOR_PUBLIC_KEY: write('rekor.pem', pem('PUBLIC KEY', root.tlogs[0]!.publicKey.rawBytes)),
    SIGSTORE_CT_LOG_PUBLIC_KEY_FILE: write('ct.pem', pem('PUBLIC KEY', root.ctlogs[0]!.publicKey.rawBytes)),
  });
}

interface TrustedRoot {
  certificateAuthorities: { certChain: { certificates: { rawBytes: string }[] } }[];
  tlogs: { publicKey: { rawBytes: string } }[];
  ctlogs: { publicKey: { rawBytes: string } }[];
}

const pem = (label: string, base64: string): string =>
  `-----BEGIN ${label}-----\n${base64.replace(/.{64}/g, '$&\n')}\n-----END ${label}-----\n`;

function signingConfig(url: string): object {
  const service = { url, majorApiVersion: 1, validFor: { start: '2020-01-01T00:00:00Z' }, operator: 'tests' };
  return {
    mediaType: 'application/vnd.dev.sigstore.signingconfig.v0.2+json',
    caUrls: [service],
    rekorTlogUrls: [service],
    rekorTlogConfig: { selector: 'ANY' },
    tsaConfig: {},
  };
}
