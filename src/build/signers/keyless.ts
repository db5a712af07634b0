// SPDX-License-Identifier: Apache-2.0
/**
 * The keyless signer, for machines that have an identity rather than a key: Fulcio certifies a key that lives for
 * one signature, Rekor logs it, a timestamp authority says when. Its bundle holds all that is needed to verify it
 * offline, later, with the trusted root of the Sigstore instance.
 */
import { createHash, generateKeyPairSync, sign } from 'node:crypto';
import { bundleFromJSON, bundleToJSON, toMessageSignatureBundle } from '@sigstore/bundle';
import { toSignedEntity } from '@sigstore/verify';
import { SealiftError } from '../../errors.ts';
import { printable } from '../../text.ts';
import { fitsItsCertificate, readClaim } from '../../trust/claim.ts';
import { identityText, parseTrustedRoot, type Identity, type SigstoreTrust } from '../../trust/identity.ts';
import type { Signer } from '../../trust/sign.ts';
import { SLOT_BYTES } from '../../trust/slots.ts';
import { clientFor, Services, type Connection, type ServiceUrls } from './services.ts';

export interface KeylessSigner extends ServiceUrls {
  /** Reads the OIDC token when it is needed, since it is valid for minutes; `tokenFile` names it in messages. */
  readToken: () => Promise<string>;
  tokenFile: string;
  /** Text of trusted_root.json and its file's name. With it, what comes back is verified as the enclave will. */
  trustedRoot?: { text: string; file: string };
  /** What the certificate must say; anything else is an error and not a signature. */
  identity?: Identity;
}

/** Longest piece of a service's words that is shown, in characters. */
const MAX_SHOWN = 300;

/**
 * @throws {SealiftError} SIGNER_INVALID when the trusted root cannot be read; USAGE when a proxy variable cannot be
 *   used. `sign` throws SIGNER_FAILED, NETWORK_ERROR, UNAUTHORIZED, BAD_SIGNATURE, INTERRUPTED, and what `readToken`
 *   throws
 */
export function keylessSigner(spec: KeylessSigner, connection: Connection = {}): Signer {
  const http = clientFor(spec, connection);
  const trust = spec.trustedRoot && trustOf(spec.trustedRoot);
  let name = spec.identity === undefined ? `the identity in ${spec.tokenFile}` : identityText(spec.identity);
  return {
    get name() {
      return name;
    },
    sign: async (message) => {
      const { token, subject } = await freshToken(spec);
      const services = new Services(spec, http, token, connection.signal);
      const json = await signOnce(services, subject, message).finally(() => http.close());
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
async function signOnce(services: Services, subject: string, message: Uint8Array): Promise<string> {
  const pair = generateKeyPairSync('ec', { namedCurve: 'P-256' });
  const certificate = await services.certify(subject, pair);
  const digest = createHash('sha256').update(message).digest();
  const signature = sign('sha256', message, { key: pair.privateKey, dsaEncoding: 'der' });
  const entry = await services.log(digest, signature, certificate);
  const timestamp = await services.stamp(signature);
  const bundle = toMessageSignatureBundle({ digest, signature, certificate: certificate.raw });
  bundle.verificationMaterial.tlogEntries = [entry];
  bundle.verificationMaterial.timestampVerificationData = {
    rfc3161Timestamps: [{ signedTimestamp: timestamp }],
  };
  return JSON.stringify(bundleToJSON(bundle));
}

/** The claims are read only to say early and clearly what Fulcio would refuse. */
async function freshToken({
  readToken,
  tokenFile,
}: KeylessSigner): Promise<{ token: string; subject: string }> {
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
  const subject = subjectOf(claims);
  if (subject !== undefined) return { token, subject };
  throw new SealiftError(
    'SIGNER_FAILED',
    `the token in ${tokenFile} names nobody that Fulcio could certify`,
    {
      hint: 'it needs the claim sub, or email with email_verified',
    },
  );
}

/** What Fulcio will want proof for: of a person the mail address, of anything else the subject. */
function subjectOf({ email, email_verified: verified, sub }: Record<string, unknown>): string | undefined {
  if (typeof email === 'string' && email !== '') return verified ? email : undefined;
  return typeof sub === 'string' && sub !== '' ? sub : undefined;
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
