// SPDX-License-Identifier: Apache-2.0
/**
 * The keyless signer, for machines that have an identity rather than a key: Fulcio certifies a key that lives for
 * one signature, Rekor logs it, a timestamp authority says when. Its bundle holds all that is needed to verify it
 * offline, later, with the trusted root of the Sigstore instance.
 *
 * The requests are @sigstore/sign's (make-fetch-happen). They go through HTTPS_PROXY, also those to http:// URLs
 * when it is set, and HTTP_PROXY; NO_PROXY is a list of host names and their domains, without ports and `*`.
 */
import { createHash, X509Certificate } from 'node:crypto';
import { bundleFromJSON, bundleToJSON, toMessageSignatureBundle } from '@sigstore/bundle';
import { FulcioSigner, RekorWitness, TSAWitness, type VerificationMaterial } from '@sigstore/sign';
import { toSignedEntity } from '@sigstore/verify';
import { SealiftError } from '../../errors.ts';
import { printable } from '../../text.ts';
import { fitsItsCertificate, readClaim } from '../../trust/claim.ts';
import { identityText, parseTrustedRoot, type Identity, type SigstoreTrust } from '../../trust/identity.ts';
import type { Signer } from '../../trust/sign.ts';
import { SLOT_BYTES } from '../../trust/slots.ts';

export interface KeylessSigner {
  /** Base URLs, without a slash at the end. */
  fulcio: string;
  rekor: string;
  tsa: string;
  /** Reads the OIDC token when it is needed, since it is valid for minutes; `tokenFile` names it in messages. */
  readToken: () => Promise<string>;
  tokenFile: string;
  /** Text of trusted_root.json and its file's name. With it, what comes back is verified as the enclave will. */
  trustedRoot?: { text: string; file: string };
  /** What the certificate must say; anything else is an error and not a signature. */
  identity?: Identity;
}

export interface Patience {
  /** For one request, in milliseconds. */
  timeoutMs: number;
  /** How often a request is repeated after a failure of the network or of the server. */
  retries: number;
}

const PATIENCE: Patience = { timeoutMs: 30_000, retries: 2 };

/** Longest piece of a service's words that is shown, in characters. */
const MAX_SHOWN = 300;

/**
 * @throws {SealiftError} SIGNER_INVALID when the trusted root cannot be read. `sign` throws SIGNER_FAILED,
 *   NETWORK_ERROR, UNAUTHORIZED, BAD_SIGNATURE, and what `readToken` throws
 */
export function keylessSigner(spec: KeylessSigner, patience: Patience = PATIENCE): Signer {
  const trust = spec.trustedRoot && trustOf(spec.trustedRoot);
  let name = spec.identity === undefined ? `the identity in ${spec.tokenFile}` : identityText(spec.identity);
  return {
    get name() {
      return name;
    },
    sign: async (message) => {
      const json = await signOnce(spec, Buffer.from(message), patience);
      name = check(json, message, spec, trust);
      return json;
    },
  };
}

function trustOf({ text, file }: { text: string; file: string }): SigstoreTrust {
  try {
    return parseTrustedRoot(text);
  } catch (cause) {
    throw new SealiftError('SIGNER_INVALID', `${file} is not a trusted root that can be read`, {
      hint: 'it is trusted_root.json of the Sigstore instance; `cosign trusted-root create` makes one',
      cause,
    });
  }
}

/** One certificate, one signature, one log entry, one timestamp; a bundle v0.3 in which the certificate is the leaf alone. */
async function signOnce(spec: KeylessSigner, message: Buffer, patience: Patience): Promise<string> {
  const token = await freshToken(spec);
  const { timeoutMs: timeout, retries: retry } = patience;
  const ask = <T>(service: string, url: string, request: () => Promise<T>): Promise<T> =>
    request().catch((thrown: unknown) => {
      throw serviceError(service, url, thrown, token);
    });
  const { fulcio, rekor, tsa } = spec;
  const certified = await ask('Fulcio', fulcio, () => {
    const identityProvider = { getToken: async () => token };
    return new FulcioSigner({ fulcioBaseURL: fulcio, identityProvider, timeout, retry }).sign(message);
  });
  if (certified.key.$case !== 'x509Certificate')
    throw new SealiftError('SIGNER_FAILED', `${fulcio} gave no certificate`);
  const pem = certified.key.certificate;
  const bundle = toMessageSignatureBundle({
    digest: createHash('sha256').update(message).digest(),
    signature: certified.signature,
    certificate: await ask('Fulcio', fulcio, async () => new X509Certificate(pem).raw),
  });
  const logged: VerificationMaterial = await ask('Rekor', rekor, () =>
    new RekorWitness({ rekorBaseURL: rekor, timeout, retry }).testify(bundle.content, pem),
  );
  const stamped: VerificationMaterial = await ask('the timestamp authority', tsa, () =>
    new TSAWitness({ tsaBaseURL: tsa, timeout, retry }).testify(bundle.content),
  );
  bundle.verificationMaterial.tlogEntries = logged.tlogEntries ?? [];
  bundle.verificationMaterial.timestampVerificationData = {
    rfc3161Timestamps: stamped.rfc3161Timestamps ?? [],
  };
  return JSON.stringify(bundleToJSON(bundle));
}

/** The claims are read only to say early and clearly what Fulcio would refuse. */
async function freshToken({ readToken, tokenFile }: KeylessSigner): Promise<string> {
  const token = (await readToken()).trim();
  const claims = claimsOf(token);
  if (claims === undefined) {
    throw new SealiftError('SIGNER_FAILED', `${tokenFile} does not hold an OIDC token (a JWT)`, {
      hint: 'write the token that the CI or identity provider gives for the audience `sigstore` into it',
    });
  }
  if (typeof claims['exp'] === 'number' && claims['exp'] * 1000 < Date.now()) {
    const when = new Date(Math.max(0, claims['exp'] * 1000)).toISOString();
    throw new SealiftError('SIGNER_FAILED', `the token in ${tokenFile} has expired (${when})`, {
      hint: 'fetch a new one right before signing: such tokens are valid for minutes',
    });
  }
  return token;
}

function claimsOf(token: string): Record<string, unknown> | undefined {
  const [, payload] = /^[\w-]+\.([\w-]+)\.[\w-]+$/.exec(token) ?? [];
  try {
    const claims: unknown = JSON.parse(Buffer.from(payload ?? '', 'base64url').toString());
    return typeof claims === 'object' && claims !== null ? (claims as Record<string, unknown>) : undefined;
  } catch {
    return undefined;
  }
}

const UNREACHABLE_HINT =
  'is the service up, and reachable from here? HTTPS_PROXY, HTTP_PROXY and NO_PROXY apply';

/**
 * What a service, or the way to it, did wrong. The thrown error does not become the cause: what it or the service
 * says may repeat the token, and --debug prints causes.
 */
function serviceError(service: string, url: string, thrown: unknown, token: string): SealiftError {
  const words = wordsOf(thrown).replaceAll(token, '<token>');
  const status = Number(/^\((\d{3})\)/.exec(words)?.[1]);
  const said = printable(words, MAX_SHOWN);
  if (Number.isNaN(status)) {
    return new SealiftError('NETWORK_ERROR', `${service} at ${url} gave no usable answer: ${said}`, {
      hint: UNREACHABLE_HINT,
    });
  }
  const refusesToken = service === 'Fulcio' && [400, 401, 403].includes(status);
  return new SealiftError(
    refusesToken ? 'UNAUTHORIZED' : 'SIGNER_FAILED',
    `${service} at ${url} refused: ${said}`,
    {
      hint: refusesToken
        ? 'is the token fresh, made for the audience that this Fulcio wants, and by an issuer that it knows?'
        : 'nothing was signed; run again, and ask who runs the service if it stays',
    },
  );
}

/** Of an error of @sigstore/sign, that of the request below it. */
function wordsOf(thrown: unknown): string {
  if (!(thrown instanceof Error)) return String(thrown);
  return thrown.cause instanceof Error ? thrown.cause.message : thrown.message;
}

/**
 * Everything about a new signature that can be checked here.
 * @returns whose it is
 */
function check(
  json: string,
  message: Uint8Array,
  spec: KeylessSigner,
  trust: SigstoreTrust | undefined,
): string {
  if (Buffer.byteLength(json) > SLOT_BYTES) {
    const text = `certificate, log entry and timestamp are ${Buffer.byteLength(json)} bytes; a slot holds ${SLOT_BYTES}`;
    throw new SealiftError('SIGNER_FAILED', text, {
      hint: 'a timestamp authority that sends its whole certificate chain takes the most: configure it not to',
    });
  }
  const { by, identity } = proven(json, message, spec, trust);
  const { identity: wanted } = spec;
  if (wanted === undefined || (wanted.subject === identity?.subject && wanted.issuer === identity.issuer))
    return by;
  throw new SealiftError(
    'SIGNER_FAILED',
    'Fulcio certified another identity than the signer document asks for',
    {
      details: [
        ['wanted', identityText(wanted)],
        ['got', printable(by, MAX_SHOWN)],
      ],
      hint: 'the token decides: which job, branch or account was it made for?',
    },
  );
}

function proven(
  json: string,
  message: Uint8Array,
  { fulcio, trustedRoot }: KeylessSigner,
  trust: SigstoreTrust | undefined,
): ReturnType<typeof readClaim> {
  const parsed: unknown = JSON.parse(json);
  try {
    if (!fitsItsCertificate(parsed, message)) throw new Error('the certificate is for another key');
    const bundle = bundleFromJSON(parsed);
    // Some tokens' times are in forms that Sigstore's libraries cannot read, at verification and not before.
    for (const stamp of toSignedEntity(bundle).timestamps)
      if (stamp.$case === 'timestamp-authority') void stamp.timestamp.signingTime;
    trust?.(bundle, message);
    return readClaim(parsed);
  } catch (cause) {
    const against = trustedRoot === undefined ? '' : ` against ${trustedRoot.file}`;
    const why = cause instanceof Error ? cause.message : String(cause);
    const text = `the signature that ${fulcio} certified does not verify${against}: ${printable(why, MAX_SHOWN)}`;
    throw new SealiftError('BAD_SIGNATURE', text, {
      hint: 'is the trusted root that of this Sigstore instance? If it is, sign again',
      cause,
    });
  }
}
