// SPDX-License-Identifier: Apache-2.0
/** Signatures by an identity, made with a private Sigstore instance and taken apart at will. */
import {
  createHash,
  createPublicKey,
  generateKeyPairSync,
  sign,
  X509Certificate,
  type KeyObject,
} from 'node:crypto';
import { createRequire } from 'node:module';
import { bundleToJSON, toMessageSignatureBundle } from '@sigstore/bundle';
import { FulcioSigner, RekorWitness, TSAWitness, type Signer } from '@sigstore/sign';
import type { SigstoreInstance } from './sigstore.ts';

export interface Claim {
  subject: string;
  issuer: string;
  /** The key that the certificate is for; by default a new one. */
  key?: KeyObject;
}

/** A Sigstore bundle over `bytes` with certificate, log entry and timestamp, as one line of JSON. */
export async function signedAs(
  sigstore: SigstoreInstance,
  bytes: Uint8Array,
  { subject, issuer, key }: Claim,
): Promise<string> {
  const options = { retry: { retries: 0 }, timeout: 10_000 };
  const signer = new FulcioSigner({
    fulcioBaseURL: sigstore.url,
    identityProvider: { getToken: async () => sigstore.token(subject, issuer) },
    keyHolder: holderOf(key ?? generateKeyPairSync('ec', { namedCurve: 'P-256' }).privateKey),
    ...options,
  });
  const { signature, key: material } = await signer.sign(Buffer.from(bytes));
  if (material.$case !== 'x509Certificate') throw new Error('no certificate came');
  const bundle = toMessageSignatureBundle({
    digest: createHash('sha256').update(bytes).digest(),
    signature,
    certificate: new X509Certificate(material.certificate).raw,
    certificateChain: false,
  });
  const rekor = new RekorWitness({
    rekorBaseURL: sigstore.url,
    entryType: 'hashedrekord' as never,
    ...options,
  });
  const tsa = new TSAWitness({ tsaBaseURL: sigstore.url, ...options });
  const { tlogEntries } = await rekor.testify(bundle.content, material.certificate);
  const { rfc3161Timestamps } = await tsa.testify(bundle.content);
  Object.assign(bundle.verificationMaterial, {
    tlogEntries,
    timestampVerificationData: { rfc3161Timestamps },
  });
  return JSON.stringify(bundleToJSON(bundle));
}

function holderOf(privateKey: KeyObject): Signer {
  const publicKey = createPublicKey(privateKey.export({ type: 'pkcs8', format: 'pem' })).export({
    type: 'spki',
    format: 'pem',
  });
  return {
    sign: async (data) => ({
      signature: sign('sha256', data, privateKey),
      key: { $case: 'publicKey', publicKey },
    }),
  };
}

/** What a certificate authority that does not only issue for signing code may put into certificates. */
interface Oddity {
  /** Extended key usages, instead of code signing; none for a certificate without that extension. */
  usages?: readonly string[];
  /** A second subject alternative name. */
  alsoNamed?: string;
}

/** The library that @sigstore/mock makes certificates with; @sigstore/mock reads these members at each certificate. */
interface CertificateLibrary {
  ExtendedKeyUsageExtension: new (usages: readonly string[]) => object;
  Extension: new (oid: string, critical: boolean, value: Uint8Array) => object;
  SubjectAlternativeNameExtension: new (
    names: { type: string; value: string }[],
    critical?: boolean,
  ) => object;
}

/** Makes the certificate authority of every private instance issue odd certificates while `work` runs. */
export async function withOddCertificates<T>(
  { usages, alsoNamed }: Oddity,
  work: () => Promise<T>,
): Promise<T> {
  const mock = createRequire(createRequire(import.meta.url).resolve('@sigstore/mock'));
  const library =
    (mock('@peculiar/x509') as { default?: CertificateLibrary }).default ?? mock('@peculiar/x509');
  const target = library as CertificateLibrary;
  const honest = { usages: target.ExtendedKeyUsageExtension, names: target.SubjectAlternativeNameExtension };
  if (usages !== undefined) target.ExtendedKeyUsageExtension = oddUsages(target, usages);
  if (alsoNamed !== undefined) {
    const second = { type: 'url', value: alsoNamed };
    target.SubjectAlternativeNameExtension = class extends honest.names {
      constructor(names: { type: string; value: string }[], critical?: boolean) {
        super([...names, second], critical);
      }
    };
  }
  try {
    return await work();
  } finally {
    target.ExtendedKeyUsageExtension = honest.usages;
    target.SubjectAlternativeNameExtension = honest.names;
  }
}

function oddUsages(
  { ExtendedKeyUsageExtension, Extension }: CertificateLibrary,
  usages: readonly string[],
): CertificateLibrary['ExtendedKeyUsageExtension'] {
  if (usages.length > 0)
    return class extends ExtendedKeyUsageExtension {
      constructor() {
        super(usages);
      }
    };
  return class extends Extension {
    constructor() {
      super('1.3.6.1.4.1.57264.99', false, Buffer.from('0500', 'hex')); // something that nobody asks for
    }
  };
}
