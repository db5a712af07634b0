// SPDX-License-Identifier: Apache-2.0
/**
 * What a keyless signature needs of a Sigstore instance, one request each: Fulcio (API v2), Rekor (API v1) and a
 * timestamp authority (its JSON form). Asked by the client of the sources rather than by @sigstore/sign, which
 * follows redirects, so that a 307 takes the identity token elsewhere, and reads answers of any length.
 */
import { createHash, sign, X509Certificate, type KeyObject } from 'node:crypto';
import type { Bundle } from '@sigstore/bundle';
import * as z from 'zod';
import { SealiftError } from '../../errors.ts';
import type { Emit } from '../../events.ts';
import { parseJson } from '../../json.ts';
import { printable } from '../../text.ts';
import { HttpClient, type HttpDocument, type NetworkOptions } from '../sources/http.ts';
import { reasonOf } from '../sources/retry.ts';

/** Base URLs, without a slash at the end. */
export interface ServiceUrls {
  fulcio: string;
  rekor: string;
  /** With a path it is the whole address, as the public instances publish theirs. */
  tsa: string;
}

export interface Connection extends NetworkOptions {
  emit?: Emit;
  signal?: AbortSignal;
}

/** The token lives for minutes, so fewer and shorter tries than of a download. */
const PATIENCE: NetworkOptions = { stallMs: 30_000, attempts: 3 };
/** Longest answer, in bytes: four slots. */
const MAX_ANSWER_BYTES = 64 * 1024;
/** Longest piece of a service's words that is shown, in characters. */
const MAX_SHOWN = 300;
const UNREACHABLE_HINT =
  'is the service up, and reachable from here? HTTPS_PROXY, HTTP_PROXY and NO_PROXY apply';

const FORM_HINT =
  'is that its address in the signer document? Fulcio is asked by its API v2, Rekor by its API v1, the authority for JSON';

const Chain = z.object({ chain: z.object({ certificates: z.array(z.string()).min(1) }) });
const Certified = z
  .object({ signedCertificateEmbeddedSct: Chain.optional(), signedCertificateDetachedSct: Chain.optional() })
  .transform((answer) => answer.signedCertificateEmbeddedSct ?? answer.signedCertificateDetachedSct)
  .pipe(Chain);

const Hex = z.string().regex(/^([0-9a-f]{2})+$/);
const Index = z.int().min(0);
const Logged = z.object({
  body: z.base64(),
  integratedTime: Index,
  logID: Hex,
  logIndex: Index,
  verification: z.object({
    signedEntryTimestamp: z.base64(),
    inclusionProof: z.object({
      checkpoint: z.string(),
      hashes: z.array(Hex),
      logIndex: Index,
      rootHash: Hex,
      treeSize: Index,
    }),
  }),
});
const Body = z.object({ kind: z.string(), apiVersion: z.string() });

/** The client for these services. @throws {SealiftError} USAGE when a proxy variable cannot be used */
export function clientFor({ rekor, tsa }: ServiceUrls, { signal: _, ...network }: Connection): HttpClient {
  // To write http:// into the signer document is to name the host; of Fulcio the document's reader refuses it.
  const plain = [rekor, tsa].map((url) => new URL(url)).filter(({ protocol }) => protocol === 'http:');
  return new HttpClient({ ...PATIENCE, ...network, plainHttp: new Set(plain.map(({ host }) => host)) });
}

/**
 * The services, for one signature. Every method throws SealiftError: UNAUTHORIZED when Fulcio refuses the token,
 * SIGNER_FAILED for other refusals, NETWORK_ERROR, INTERRUPTED.
 */
export class Services {
  readonly #urls: ServiceUrls;
  readonly #http: HttpClient;
  readonly #token: string;
  readonly #signal: AbortSignal | undefined;

  /** @param token identifies the signer to Fulcio, and is kept out of every message */
  constructor(urls: ServiceUrls, http: HttpClient, token: string, signal: AbortSignal | undefined) {
    this.#urls = urls;
    this.#http = http;
    this.#token = token;
    this.#signal = signal;
  }

  /** A certificate for the key. @param subject of the token; a signature over it proves that we hold the key */
  async certify(subject: string, { publicKey, privateKey }: KeyPair): Promise<X509Certificate> {
    const request = {
      credentials: { oidcIdentityToken: this.#token },
      publicKeyRequest: {
        publicKey: { algorithm: 'ECDSA', content: publicKey.export({ type: 'spki', format: 'pem' }) },
        proofOfPossession: sign('sha256', Buffer.from(subject), privateKey).toString('base64'),
      },
    };
    const { fulcio } = this.#urls;
    return this.#ask('Fulcio', fulcio, `${fulcio}/api/v2/signingCert`, request, (bytes) => {
      const [leaf = ''] = Certified.parse(jsonOf(bytes)).chain.certificates;
      return new X509Certificate(leaf);
    });
  }

  /** A `hashedrekord`, as the entry of a Sigstore bundle. */
  async log(digest: Buffer, signature: Buffer, certificate: X509Certificate): Promise<LogEntry> {
    const publicKey = { content: Buffer.from(certificate.toString()).toString('base64') };
    const request = {
      apiVersion: '0.0.1',
      kind: 'hashedrekord',
      spec: {
        data: { hash: { algorithm: 'sha256', value: digest.toString('hex') } },
        signature: { content: signature.toString('base64'), publicKey },
      },
    };
    const { rekor } = this.#urls;
    return this.#ask('Rekor', rekor, `${rekor}/api/v1/log/entries`, request, (bytes) => {
      const entries = Object.values(z.record(z.string(), Logged).parse(jsonOf(bytes)));
      if (entries.length !== 1) throw new Error('expected one entry');
      return toEntry(entries[0]!);
    });
  }

  /** An RFC 3161 timestamp of the signature, DER. */
  async stamp(signature: Buffer): Promise<Buffer> {
    const { tsa } = this.#urls;
    const url = new URL(tsa).pathname === '/' ? `${tsa}/api/v1/timestamp` : tsa;
    const artifactHash = createHash('sha256').update(signature).digest('base64');
    const request = { artifactHash, hashAlgorithm: 'sha256' };
    return this.#ask('the timestamp authority', tsa, url, request, (bytes) => bytes);
  }

  async #ask<T>(
    service: string,
    base: string,
    url: string,
    request: object,
    read: (bytes: Buffer) => T,
  ): Promise<T> {
    const what = `${service} at ${base}`;
    const answer = await this.#post(what, url, request);
    if (answer.status < 200 || answer.status > 299)
      throw refusal(what, answer, service === 'Fulcio', this.#token);
    try {
      return read(answer.bytes);
    } catch {
      throw unusable(what, 'it is not in the form of that service', FORM_HINT);
    }
  }

  async #post(what: string, url: string, body: object): Promise<HttpDocument> {
    const request = {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify(body),
      signal: this.#signal,
      what,
    } as const;
    try {
      return await this.#http.bytes(new URL(url), request, MAX_ANSWER_BYTES);
    } catch (thrown) {
      if (!(thrown instanceof SealiftError)) throw thrown;
      const { code, message, hint } = thrown;
      if (code === 'NETWORK_ERROR') throw unusable(what, reasonOf(message, what), hint);
      // To sources this is a broken protocol: it redirects, or answers without end.
      throw code === 'SOURCE_INVALID' ? new SealiftError('SIGNER_FAILED', message) : thrown;
    }
  }
}

type LogEntry = Bundle['verificationMaterial']['tlogEntries'][number];

export interface KeyPair {
  publicKey: KeyObject;
  privateKey: KeyObject;
}

const jsonOf = (bytes: Buffer): unknown => parseJson(bytes, 'the answer', 'SIGNER_FAILED', MAX_ANSWER_BYTES);

function toEntry({ body, integratedTime, logID, logIndex, verification }: z.infer<typeof Logged>): LogEntry {
  const canonicalizedBody = Buffer.from(body, 'base64');
  const { kind, apiVersion: version } = Body.parse(jsonOf(canonicalizedBody));
  const { signedEntryTimestamp, inclusionProof: proof } = verification;
  return {
    logIndex: String(logIndex),
    logId: { keyId: fromHex(logID) },
    kindVersion: { kind, version },
    integratedTime: String(integratedTime),
    inclusionPromise: { signedEntryTimestamp: Buffer.from(signedEntryTimestamp, 'base64') },
    inclusionProof: {
      logIndex: String(proof.logIndex),
      rootHash: fromHex(proof.rootHash),
      treeSize: String(proof.treeSize),
      hashes: proof.hashes.map(fromHex),
      checkpoint: { envelope: proof.checkpoint },
    },
    canonicalizedBody,
  };
}

const fromHex = (hex: string): Buffer => Buffer.from(hex, 'hex');

/** Without a cause: what the service says may repeat the token, and --debug prints causes. */
function refusal(
  what: string,
  { status, bytes }: HttpDocument,
  isFulcio: boolean,
  token: string,
): SealiftError {
  const said = printable(wordsOf(bytes).replaceAll(token, '<token>'), MAX_SHOWN);
  const refusesToken = isFulcio && [400, 401, 403].includes(status);
  return new SealiftError(
    refusesToken ? 'UNAUTHORIZED' : 'SIGNER_FAILED',
    `${what} refused: (${status}) ${said}`.trimEnd(),
    {
      hint: refusesToken
        ? 'is the token fresh, made for the audience that this Fulcio wants, and by an issuer that it knows?'
        : 'nothing was signed; run again, and ask who runs the service if it stays',
    },
  );
}

const unusable = (what: string, why: string, hint: string = UNREACHABLE_HINT): SealiftError =>
  new SealiftError('NETWORK_ERROR', `${what} gave no usable answer: ${printable(why, MAX_SHOWN)}`, { hint });

/** The `message` of the errors of all three; nothing of an answer in another form, such as a proxy's page. */
function wordsOf(bytes: Buffer): string {
  try {
    return z.object({ message: z.string() }).parse(jsonOf(bytes)).message;
  } catch {
    return '';
  }
}
