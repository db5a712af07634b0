// SPDX-License-Identifier: Apache-2.0
/**
 * The certificate of an OMS signature, from its leaf to a root that a person chose (RFC 5280 §6, what of it
 * applies). There is no log and no timestamp beside it, so its time is judged at the leaf's notBefore, as the
 * reference does: nothing proves when the signature was made, and judged by today's clock every model would stop
 * being lockable when its maker's certificate runs out. It follows that whoever holds the key of an expired
 * certificate can still sign; a manifest that must exclude this names the `key` itself, and changes it.
 */
import { createHash, X509Certificate, type KeyObject } from 'node:crypto';
import { SealiftError } from '../../errors.ts';
import { fromHex, type Digest } from '../../store/digest.ts';
import { printable } from '../../text.ts';
import { extensionsOf, integerIn, type Extension } from './der.ts';
import { doesNotFit, otherSigner, type Finding } from './verdict.ts';

/** Certificates of a root file. */
const MAX_ROOTS = 16;
/** Largest root file, in bytes. */
const MAX_ROOT_BYTES = 256 * 1024;
/** Certificates between leaf and root. */
const MAX_DEPTH = 8;
const KEY_USAGE = '551d0f';
const BASIC_CONSTRAINTS = '551d13';
/** What an OpenSSL of today understands without help, of what CAs mark critical; anything else critical is refused. */
const UNDERSTOOD: ReadonlySet<string> = new Set([KEY_USAGE, BASIC_CONSTRAINTS, '551d25', '551d11']);
const CODE_SIGNING = '1.3.6.1.5.5.7.3.3';
const ANY_USAGE = '2.5.29.37.0';

export interface Authorities {
  /** Self-signed: the only ones that a path may end in. */
  roots: readonly X509Certificate[];
  /** Others of the same file, which may help to build the path. */
  others: readonly X509Certificate[];
}

export interface Leaf {
  key: KeyObject;
  subject: string;
  /** sha256 of the DER. */
  certificate: Digest;
  root: Digest;
}

/**
 * Reads a PEM file with one or more certificates.
 * @throws {SealiftError} MANIFEST_INVALID when none of them is a root
 */
export function readAuthorities(bytes: Uint8Array, file: string): Authorities {
  const text = bytes.length > MAX_ROOT_BYTES ? '' : Buffer.from(bytes).toString('latin1');
  const blocks = text.match(/-----BEGIN CERTIFICATE-----[^-]*-----END CERTIFICATE-----/g) ?? [];
  const invalid = (why: string, cause?: unknown): SealiftError =>
    new SealiftError('MANIFEST_INVALID', `${file} ${why}`, {
      cause,
      hint: 'expected the PEM of a root certificate, alone or with the intermediate ones',
    });
  if (blocks.length === 0 || blocks.length > MAX_ROOTS) throw invalid(`holds no certificate, or too many`);
  let all;
  try {
    all = blocks.map((block) => new X509Certificate(block));
  } catch (cause) {
    throw invalid('holds a certificate that cannot be read', cause);
  }
  const roots = all.filter((one) => one.ca && isIssuedBy(one, one));
  if (roots.length === 0)
    throw invalid('holds no root: no certificate in it is an authority that signed itself');
  return { roots, others: all.filter((one) => !roots.includes(one)) };
}

/** Finds the way from the first of `chain` to a root. */
export function leafOf(chain: readonly Buffer[], authorities: Authorities, now: Date): Leaf | Finding {
  const [leaf, ...carried] = chain.map((der) => new X509Certificate(der));
  const subject = oneLine(leaf!.subject);
  const problem = leafProblem(leaf!, now);
  if (problem !== undefined) return doesNotFit(`its certificate (${subject}) ${problem}`);
  const root = rootAbove(leaf!, [...carried, ...authorities.others], authorities.roots);
  if (root === undefined)
    return otherSigner(`${subject}, whose certificate does not lead to the root that is named`);
  return { key: leaf!.publicKey, subject, certificate: digestOfDer(leaf!), root: digestOfDer(root) };
}

function leafProblem(leaf: X509Certificate, now: Date): string | undefined {
  if (leaf.ca) return 'is one of an authority';
  if (leaf.validFromDate > now) return `begins only at ${leaf.validFromDate.toISOString()}`;
  const extensions = extensionsOf(leaf.raw);
  if (!understands(extensions)) return 'has a critical extension that is not understood';
  const usage = extensions.get(KEY_USAGE);
  const purposes = leaf.keyUsage ?? [];
  if (usage !== undefined && !maySign(usage)) return 'is not for signatures (key usage)';
  const fits = purposes.includes(CODE_SIGNING) || purposes.includes(ANY_USAGE);
  // Without either, the reference refuses; with purposes that leave signing out, a host's TLS certificate would do.
  if (purposes.length > 0 ? !fits : usage === undefined)
    return 'is not for signing code (extended key usage)';
  return undefined;
}

/**
 * Breadth first: the shortest way is the one that path lengths allow, and each certificate is looked at once, so
 * that authorities which certify each other cost nothing.
 */
function rootAbove(
  leaf: X509Certificate,
  pool: readonly X509Certificate[],
  roots: readonly X509Certificate[],
): X509Certificate | undefined {
  const when = leaf.validFromDate;
  const left = new Set(pool);
  let level = [leaf];
  for (let below = 0; below < MAX_DEPTH && level.length > 0; below++) {
    const mayIssue = (issuer: X509Certificate): boolean =>
      isAuthority(issuer, below, when) && level.some((one) => isValid(one, when) && isIssuedBy(one, issuer));
    const root = roots.find(mayIssue);
    if (root !== undefined) return root;
    level = [...left].filter(mayIssue);
    for (const one of level) left.delete(one);
  }
  return undefined;
}

/** @param below how many authorities stand between it and the leaf */
function isAuthority(certificate: X509Certificate, below: number, when: Date): boolean {
  if (!certificate.ca || !isValid(certificate, when)) return false;
  const extensions = extensionsOf(certificate.raw);
  if (!understands(extensions)) return false;
  const constraints = extensions.get(BASIC_CONSTRAINTS);
  const longest = constraints === undefined ? undefined : integerIn(constraints.value);
  return longest === undefined || below <= longest;
}

const isValid = ({ validFromDate, validToDate }: X509Certificate, when: Date): boolean =>
  validFromDate <= when && when <= validToDate;

/** Names, key identifiers and the right to certify (OpenSSL's X509_check_issued), and the signature. */
function isIssuedBy(certificate: X509Certificate, issuer: X509Certificate): boolean {
  try {
    return certificate.checkIssued(issuer) && certificate.verify(issuer.publicKey);
  } catch {
    return false;
  }
}

const understands = (extensions: ReadonlyMap<string, Extension>): boolean =>
  [...extensions].every(([oid, { critical }]) => !critical || UNDERSTOOD.has(oid));

/** digitalSignature is the first bit of the BIT STRING, after tag, length and the count of unused bits. */
const maySign = ({ value }: Extension): boolean => value[0] === 0x03 && ((value[3] ?? 0) & 0x80) !== 0;

const digestOfDer = ({ raw }: X509Certificate): Digest =>
  fromHex(createHash('sha256').update(raw).digest('hex'));

/** Node puts each part on a line of its own. */
const oneLine = (subject: string): string => printable(subject.split('\n').join(', '), 300);
