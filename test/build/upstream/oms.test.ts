// SPDX-License-Identifier: Apache-2.0
/** Signatures of models, with the reference implementation (model_signing 1.1.1) as the other side. */
import { createPublicKey, generateKeyPairSync, sign, type KeyObject } from 'node:crypto';
import { mkdirSync, readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { readAuthorities } from '../../../src/build/upstream/certificates.ts';
import { IN_TOTO, preAuthEncoding } from '../../../src/build/upstream/envelope.ts';
import { readUpstreamKey } from '../../../src/build/upstream/keys.ts';
import { verifyModelSignature } from '../../../src/build/upstream/model-signature.ts';
import {
  omsFile,
  signOms,
  verifyOms,
  type FileDigest,
  type ModelAnchor,
} from '../../../src/build/upstream/oms.ts';
import { SealiftError } from '../../../src/errors.ts';
import { digestOf } from '../../../src/store/digest.ts';
import { modelSigning } from '../../support/model-signing.ts';
import { runOk, tempDir } from '../../support/workspace.ts';

const NOW = new Date('2026-11-23T10:00:00Z');
const FILES: Record<string, string> = {
  'config.json': '{}',
  'model.safetensors': 'w'.repeat(5000),
  'sub/Z.bin': 'z',
  'sub-x': 'before sub/ by code point, after it by path component',
  'sub/größe 🚢.txt': 'unicode',
  'empty.txt': '',
  '.gitattributes': '*.bin filter=lfs',
};

function modelFolder(files = FILES): string {
  const dir = join(tempDir('model'), 'tiny');
  for (const [path, text] of Object.entries(files)) {
    mkdirSync(dirname(join(dir, path)), { recursive: true });
    writeFileSync(join(dir, path), text);
  }
  return dir;
}

function digestsOf(dir: string, leaveOut: string[] = []): FileDigest[] {
  return readdirSync(dir, { recursive: true, encoding: 'utf8' })
    .filter((path) => statSync(join(dir, path)).isFile() && !leaveOut.includes(path))
    .map((path) => ({ path, digest: digestOf(readFileSync(join(dir, path))) }));
}

const pemOf = (key: KeyObject): string =>
  key.type === 'private'
    ? key.export({ type: 'pkcs8', format: 'pem' })
    : key.export({ type: 'spki', format: 'pem' });

function keyFiles(namedCurve = 'P-256'): {
  key: KeyObject;
  privateFile: string;
  publicFile: string;
  anchor: ModelAnchor;
} {
  const { privateKey, publicKey } = generateKeyPairSync('ec', { namedCurve });
  const dir = tempDir('oms-key');
  writeFileSync(join(dir, 'k.pem'), pemOf(privateKey));
  writeFileSync(join(dir, 'k.pub'), pemOf(publicKey));
  const key = readUpstreamKey(Buffer.from(pemOf(publicKey)), 'k.pub');
  const anchor = { anchor: digestOf(pemOf(publicKey)), key };
  return { key: privateKey, privateFile: join(dir, 'k.pem'), publicFile: join(dir, 'k.pub'), anchor };
}

/** The code and message with which files are refused under an anchor, or who signed them. */
function verdict(
  signature: Uint8Array | undefined,
  files: FileDigest[],
  anchor: ModelAnchor,
  now = NOW,
): unknown {
  try {
    return verifyModelSignature('tiny', signature, files, { ...anchor, file: 'model.sig' }, now).by;
  } catch (error) {
    if (error instanceof SealiftError)
      return [error.code, error.message, ...(error.details[1] ?? [])].join(' ');
    throw error;
  }
}

describe('what model_signing signs with a key', () => {
  test.each(['P-256', 'P-384', 'P-521'])(
    'is accepted on curve %s, and refused after a change',
    async (curve) => {
      const dir = modelFolder();
      const keys = keyFiles(curve);
      const signature = join(dir, 'model.sig');
      const said = await modelSigning(
        'sign',
        'key',
        dir,
        '--private_key',
        keys.privateFile,
        '--signature',
        signature,
      );
      expect(said.stdout + said.stderr).toContain('Signing succeeded');
      const bytes = readFileSync(signature);
      const files = digestsOf(dir, ['.gitattributes']);
      const { fingerprint } = 'key' in keys.anchor ? keys.anchor.key : { fingerprint: undefined };
      expect(verdict(bytes, files, keys.anchor)).toBe(fingerprint);
      expect(verdict(bytes, files.slice(1), keys.anchor), 'a file that is signed and not carried').toBe(
        fingerprint,
      );
      writeFileSync(join(dir, 'config.json'), '{ }');
      expect(verdict(bytes, digestsOf(dir, ['.gitattributes']), keys.anchor)).toBe(
        'UPSTREAM_BAD_SIGNATURE model tiny: config.json is not what was signed',
      );
      expect(verdict(bytes, files, keyFiles(curve).anchor)).toMatch(/^UPSTREAM_UNTRUSTED /);
    },
  );

  test('does not cover what it leaves out by itself, and the hint says what to do', async () => {
    const dir = modelFolder();
    const keys = keyFiles();
    const signature = join(dir, 'model.sig');
    await modelSigning('sign', 'key', dir, '--private_key', keys.privateFile, '--signature', signature);
    expect(verdict(readFileSync(signature), digestsOf(dir), keys.anchor)).toBe(
      'UPSTREAM_BAD_SIGNATURE model tiny: the signature does not cover .gitattributes',
    );
  });
});

describe('what we sign', () => {
  test('is accepted by model_signing, and refused after a change', async () => {
    const dir = modelFolder();
    const { key, publicFile } = keyFiles();
    const files = digestsOf(dir);
    const signature = join(dir, 'model.sig');
    writeFileSync(signature, omsFile('tiny', files, signOms('tiny', files, key)));
    const verify = async (): Promise<[number, string]> => {
      const flags = ['--public_key', publicFile, '--signature', signature];
      const { code, stdout, stderr } = await modelSigning('verify', 'key', dir, ...flags);
      return [code, (stdout + stderr).trim()];
    };
    expect(await verify()).toEqual([0, 'Verification succeeded']);
    writeFileSync(join(dir, 'sub/Z.bin'), 'Z');
    expect(await verify()).toEqual([
      1,
      expect.stringMatching(/^Verification failed.*Hash mismatch for 'sub\/Z.bin'/s),
    ]);
    writeFileSync(join(dir, 'sub/Z.bin'), 'z');
    writeFileSync(join(dir, 'extra.bin'), '');
    expect(await verify()).toEqual([
      1,
      expect.stringMatching(/^Verification failed.*Extra files found.*extra.bin/s),
    ]);
  });

  test('is accepted by ourselves, by that key alone', () => {
    const { key, anchor } = keyFiles();
    const files = digestsOf(modelFolder());
    const bytes = omsFile('tiny', files, signOms('tiny', files, key));
    const carried = files.filter(({ path }) => path !== '.gitattributes');
    expect(verdict(bytes, carried, anchor)).toMatch(/^sha256:/);
    expect(verdict(bytes, carried, keyFiles().anchor)).toMatch(/^UPSTREAM_UNTRUSTED/);
  });

  test('does not depend on the order in which files are given, and refuses a signature over others', () => {
    const { key } = keyFiles();
    const files = digestsOf(modelFolder());
    const oms = signOms('tiny', files, key);
    expect(omsFile('tiny', files.toReversed(), oms)).toEqual(omsFile('tiny', files, oms));
    expect(() => omsFile('tiny', files.slice(2), oms)).toThrow('not over these files');
    expect(() => omsFile('other', files, oms)).toThrow('not over these files');
  });
});

test('no signature at all', () => {
  expect(verdict(undefined, digestsOf(modelFolder()), keyFiles().anchor)).toBe(
    'UPSTREAM_NOT_SIGNED model tiny is not signed looked at model.sig',
  );
});

// --- certificates --------------------------------------------------------------------------------------

interface Authority {
  cert: string;
  key: string;
}

const EXTENSIONS = {
  root: 'basicConstraints=critical,CA:true\nkeyUsage=critical,keyCertSign,cRLSign\nsubjectKeyIdentifier=hash',
  intermediate:
    'basicConstraints=critical,CA:true,pathlen:0\nkeyUsage=critical,keyCertSign\nsubjectKeyIdentifier=hash\nauthorityKeyIdentifier=keyid',
  leaf: 'basicConstraints=critical,CA:false\nkeyUsage=critical,digitalSignature\nauthorityKeyIdentifier=keyid',
};

const dir = tempDir('authority');
let serial = 0;

/** A certificate by openssl; by itself when no issuer is given. Days may be negative: then it has run out. */
async function certificate(
  name: string,
  extensions: string,
  issuer?: Authority,
  days = 3650,
): Promise<Authority> {
  const base = join(dir, `${++serial}-${name}`);
  const { privateKey } = generateKeyPairSync('ec', { namedCurve: 'P-384' });
  writeFileSync(`${base}.key`, pemOf(privateKey));
  writeFileSync(`${base}.ext`, extensions);
  await runOk('openssl', [
    'req',
    '-new',
    '-key',
    `${base}.key`,
    '-subj',
    `/O=Maker/CN=${name}`,
    '-out',
    `${base}.csr`,
  ]);
  const by = issuer
    ? ['-CA', issuer.cert, '-CAkey', issuer.key, '-set_serial', String(serial)]
    : ['-signkey', `${base}.key`];
  const out = ['-in', `${base}.csr`, '-out', `${base}.pem`, '-days', String(days), '-extfile', `${base}.ext`];
  await runOk('openssl', ['x509', '-req', ...by, ...out]);
  return { cert: `${base}.pem`, key: `${base}.key` };
}

const trusting = (...certs: Authority[]): ModelAnchor => {
  const pem = certs.map(({ cert }) => readFileSync(cert, 'utf8')).join('');
  return { anchor: digestOf(pem), authorities: readAuthorities(Buffer.from(pem), 'roots.pem') };
};

/** Signs a model with model_signing and a certificate. */
async function signed(
  leaf: Authority,
  ...chain: Authority[]
): Promise<{ bytes: Buffer; files: FileDigest[]; model: string; signature: string }> {
  const model = modelFolder({ 'config.json': '{}', 'model.bin': 'weights' });
  const signature = join(model, 'model.sig');
  const more = chain.flatMap(({ cert }) => ['--certificate_chain', cert]);
  const flags = [
    '--private_key',
    leaf.key,
    '--signing_certificate',
    leaf.cert,
    ...more,
    '--signature',
    signature,
  ];
  const said = await modelSigning('sign', 'certificate', model, ...flags);
  if (said.code !== 0) throw new Error(said.stdout + said.stderr);
  return { bytes: readFileSync(signature), files: digestsOf(model), model, signature };
}

const later = new Date(Date.now() + 3_600_000);

describe('what model_signing signs with a certificate', () => {
  test('leads to the root through an intermediate, and the record says to whom', async () => {
    const root = await certificate('root', EXTENSIONS.root);
    const middle = await certificate('middle', EXTENSIONS.intermediate, root);
    const leaf = await certificate('leaf', EXTENSIONS.leaf, middle);
    const { bytes, files, model, signature } = await signed(leaf, middle);
    const der = (pem: string): string => digestOf(Buffer.from(pem.replace(/-----[^-]+-----/g, ''), 'base64'));
    const by = {
      subject: 'O=Maker, CN=leaf',
      certificate: der(readFileSync(leaf.cert, 'utf8')),
      root: der(readFileSync(root.cert, 'utf8')),
    };
    expect(verdict(bytes, files, trusting(root), later)).toEqual(by);
    expect(verdict(bytes, files, trusting(leaf, middle, root), later), 'the whole chain in the file').toEqual(
      by,
    );
    const stranger = await certificate('root', EXTENSIONS.root);
    expect(verdict(bytes, files, trusting(stranger), later)).toMatch(/^UPSTREAM_UNTRUSTED/);
    expect(verdict(bytes, files, keyFiles('P-384').anchor, later)).toMatch(/^UPSTREAM_UNTRUSTED/);
    const check = await modelSigning(
      'verify',
      'certificate',
      model,
      '--certificate_chain',
      root.cert,
      '--signature',
      signature,
    );
    expect((check.stdout + check.stderr).trim()).toBe('Verification succeeded');
  });

  test.each(['leaf', 'intermediate'])('forged: %s by a namesake of the authority', async (what) => {
    const root = await certificate('root', EXTENSIONS.root);
    const namesake = await certificate('root', EXTENSIONS.root);
    // Without the identifier of the issuer's key, names are all that is left beside the signature.
    const forged = EXTENSIONS[what as 'leaf'].replace('keyid', 'none');
    const chain = what === 'leaf' ? [] : [await certificate('middle', forged, namesake)];
    const leaf = await certificate('leaf', chain.length > 0 ? EXTENSIONS.leaf : forged, chain[0] ?? namesake);
    const { bytes, files } = byHand(leaf, chain);
    expect(verdict(bytes, files, trusting(namesake), later)).toMatchObject({ subject: 'O=Maker, CN=leaf' });
    expect(verdict(bytes, files, trusting(root), later)).toMatch(/^UPSTREAM_UNTRUSTED/);
  });

  test('a missing link is not made up', async () => {
    const root = await certificate('root', EXTENSIONS.root);
    const middle = await certificate('middle', EXTENSIONS.intermediate, root);
    const { bytes, files } = byHand(await certificate('leaf', EXTENSIONS.leaf, middle), []);
    expect(verdict(bytes, files, trusting(root), later)).toMatch(/^UPSTREAM_UNTRUSTED/);
    expect(verdict(bytes, files, trusting(root, middle), later)).toMatchObject({
      subject: 'O=Maker, CN=leaf',
    });
  });

  test('a certificate that has run out since still counts, one that begins later does not', async () => {
    const root = await certificate('root', EXTENSIONS.root);
    const { bytes, files } = byHand(await certificate('leaf', EXTENSIONS.leaf, root, 1), []);
    expect(verdict(bytes, files, trusting(root), new Date('2099-01-01'))).toMatchObject({
      subject: 'O=Maker, CN=leaf',
    });
    expect(verdict(bytes, files, trusting(root), new Date('2020-01-01'))).toMatch(/^UPSTREAM_BAD_SIGNATURE/);
  });

  test.each([
    ['a root', -1, 3650, 3650],
    ['an intermediate', 3650, -1, 3650],
    ['a leaf, which ends before it begins,', 3650, 3650, -1],
  ])(
    '%s that was not valid when the leaf began does not count',
    async (_, rootDays, middleDays, leafDays) => {
      const root = await certificate('root', EXTENSIONS.root, undefined, rootDays);
      const middle = await certificate('middle', EXTENSIONS.intermediate, root, middleDays);
      const leaf = await certificate('leaf', EXTENSIONS.leaf, middle, leafDays);
      const { bytes, files } = byHand(leaf, [middle]);
      expect(verdict(bytes, files, trusting(root), later)).toMatch(/^UPSTREAM_UNTRUSTED/);
    },
  );

  test.each([
    [
      'an authority that signs by itself',
      'basicConstraints=critical,CA:true\nkeyUsage=critical,digitalSignature,keyCertSign',
      'is one of an authority',
    ],
    [
      "a web server's certificate",
      `${EXTENSIONS.leaf}\nextendedKeyUsage=serverAuth`,
      'is not for signing code',
    ],
    [
      'one for other things than signatures',
      'basicConstraints=CA:false\nkeyUsage=critical,keyEncipherment\nextendedKeyUsage=codeSigning',
      'is not for signatures',
    ],
    ['one that says nothing of its use', 'basicConstraints=CA:false', 'is not for signing code'],
    [
      'one with a critical extension that nobody knows',
      `${EXTENSIONS.leaf}\n1.2.3.4.5=critical,DER:0500`,
      'has a critical extension',
    ],
    ['one for signing code', `${EXTENSIONS.leaf}\nextendedKeyUsage=codeSigning`, undefined],
  ])('leaf: %s', async (_, extensions, why) => {
    const root = await certificate('root', EXTENSIONS.root);
    const leaf = await certificate('leaf', extensions, root);
    const { bytes, files } = byHand(leaf, []);
    const found = verdict(bytes, files, trusting(root), later);
    if (why === undefined) expect(found).toMatchObject({ subject: 'O=Maker, CN=leaf' });
    else expect(found).toMatch(new RegExp(`^UPSTREAM_BAD_SIGNATURE .*O=Maker, CN=leaf.* ${why}`));
  });

  test.each([
    ['no authority at all', EXTENSIONS.leaf],
    [
      'none by its own word, of whose use nothing is said',
      'basicConstraints=CA:false\nsubjectKeyIdentifier=hash',
    ],
    [
      'without the right to certify',
      'basicConstraints=critical,CA:true\nkeyUsage=critical,digitalSignature\nsubjectKeyIdentifier=hash',
    ],
    [
      'for certain names only, which is critical and not understood',
      `${EXTENSIONS.intermediate}\nnameConstraints=critical,permitted;DNS:other.example`,
    ],
  ])('an intermediate that is %s', async (_, extensions) => {
    const root = await certificate('root', EXTENSIONS.root);
    const middle = await certificate('middle', extensions, root);
    const leaf = await certificate(
      'leaf',
      'basicConstraints=CA:false\nkeyUsage=critical,digitalSignature',
      middle,
    );
    const { bytes, files } = byHand(leaf, [middle]);
    expect(verdict(bytes, files, trusting(root), later)).toMatch(/^UPSTREAM_UNTRUSTED/);
  });

  test('a longer way than the authority allows', async () => {
    const root = await certificate('root', EXTENSIONS.root);
    const first = await certificate('first', EXTENSIONS.intermediate, root);
    const second = await certificate('second', EXTENSIONS.intermediate, first);
    const leaf = await certificate('leaf', EXTENSIONS.leaf, second);
    const { bytes, files } = byHand(leaf, [second, first]);
    expect(verdict(bytes, files, trusting(root), later)).toMatch(/^UPSTREAM_UNTRUSTED/);
  });
});

/** A signature with any certificate, made here: the reference signs with few of them, and with none alone. */
function byHand(leaf: Authority, chain: Authority[]): { bytes: Buffer; files: FileDigest[] } {
  const files = digestsOf(modelFolder({ a: 'a' }));
  const { privateKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' });
  const bundle = JSON.parse(omsFile('tiny', files, signOms('tiny', files, privateKey)).toString()) as {
    verificationMaterial: object;
    dsseEnvelope: { payload: string; signatures: { sig: string }[] };
  };
  const rawBytes = ({ cert }: Authority): { rawBytes: string } => ({
    rawBytes: readFileSync(cert, 'utf8').replace(/-----[^-]+-----|\s/g, ''),
  });
  const certificates = [leaf, ...chain].map(rawBytes);
  bundle.verificationMaterial = { x509CertificateChain: { certificates }, tlogEntries: [] };
  const bytes = preAuthEncoding(IN_TOTO, Buffer.from(bundle.dsseEnvelope.payload, 'base64'));
  bundle.dsseEnvelope.signatures[0]!.sig = sign('sha384', bytes, readFileSync(leaf.key)).toString('base64');
  return { bytes: Buffer.from(JSON.stringify(bundle)), files };
}

test('a file of roots must hold one', async () => {
  const root = await certificate('root', EXTENSIONS.root);
  const leaf = await certificate('leaf', EXTENSIONS.leaf, root);
  expect(() => trusting(leaf)).toThrow('holds no root');
  expect(() => readAuthorities(Buffer.from('nothing'), 'roots.pem')).toThrow('holds no certificate');
  expect(createPublicKey(readFileSync(root.cert)).asymmetricKeyType).toBe('ec');
});

describe('a statement that the right key signed, and that is refused all the same', () => {
  const { key, anchor } = keyFiles();
  const [a, b] = ['a', 'b'].map((name) => ({ name, digest: digestOf(name).slice(7), algorithm: 'sha256' }));
  const rootOf = (...files: { digest: string }[]): string =>
    digestOf(Buffer.concat(files.map(({ digest }) => Buffer.from(digest, 'hex')))).slice(7);
  const good = {
    _type: 'https://in-toto.io/Statement/v1',
    subject: [{ name: 'm', digest: { sha256: rootOf(a!, b!) } }],
    predicateType: 'https://model_signing/signature/v1.0',
    predicate: {
      serialization: { method: 'files', hash_type: 'sha256', allow_symlinks: false },
      resources: [a, b],
    },
  };
  const outcome = (change: (statement: typeof good) => unknown): unknown => {
    const statement = structuredClone(good);
    change(statement);
    const payload = Buffer.from(JSON.stringify(statement));
    const signature = sign('sha256', preAuthEncoding(IN_TOTO, payload), key).toString('base64');
    const bundle = {
      mediaType: 'application/vnd.dev.sigstore.bundle.v0.3+json',
      verificationMaterial: { publicKey: { hint: '' } },
      dsseEnvelope: {
        payload: payload.toString('base64'),
        payloadType: IN_TOTO,
        signatures: [{ sig: signature }],
      },
    };
    const found = verifyOms(Buffer.from(JSON.stringify(bundle)), anchor, NOW);
    return 'outcome' in found ? found : [...found.files.keys()];
  };
  const withRoot = (statement: typeof good, ...resources: (typeof a)[]): unknown =>
    Object.assign(statement, {
      subject: [{ digest: { sha256: rootOf(...resources.map((file) => file!)) } }],
      predicate: { ...statement.predicate, resources },
    });

  test('without a change it is accepted', () => {
    expect(outcome(() => {})).toEqual(['a', 'b']);
  });

  test.each<[string, (statement: typeof good) => unknown, string]>([
    ['another root digest', (s) => (s.subject[0]!.digest.sha256 = '0'.repeat(64)), 'root digest'],
    ['files in another order', (s) => s.predicate.resources.reverse(), 'root digest'],
    ['a file twice', (s) => withRoot(s, a, { ...b!, name: 'a' }), "names 'a' twice"],
    ['a path that climbs out', (s) => withRoot(s, { ...a!, name: '../a' }), 'resources.0.name'],
    ['an absolute path', (s) => withRoot(s, { ...a!, name: '/a' }), 'resources.0.name'],
    ['another hash', (s) => withRoot(s, { ...a!, algorithm: 'blake2b' }), 'resources.0.algorithm'],
    ['shards', (s) => (s.predicate.serialization.method = 'shards'), 'serialization.method'],
    ['no file', (s) => withRoot(s), 'resources'],
    ['two subjects', (s) => s.subject.push(s.subject[0]!), 'subject'],
    ['the form before 1.0', (s) => (s.predicateType = 'https://model_signing/Digests/v0.1'), 'predicateType'],
    ['no statement', (s) => Object.assign(s, { _type: 'other' }), '_type'],
  ])('%s', (_, change, why) => {
    expect(outcome(change)).toEqual({ outcome: 'does-not-fit', why: expect.stringContaining(why) });
  });
});

test('a verified signature says which files it names', () => {
  const { key, anchor } = keyFiles();
  const files = digestsOf(modelFolder({ a: '1', b: '2' }));
  const found = verifyOms(omsFile('tiny', files, signOms('tiny', files, key)), anchor, NOW);
  expect('files' in found && [...found.files.keys()]).toEqual(['a', 'b']);
});
