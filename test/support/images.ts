// SPDX-License-Identifier: Apache-2.0
//
// Images made at run time from the binaries of this machine, because nothing can be pulled: an engine
// (Debian's Python with the stand-in of an inference engine) and a gateway (Debian's nginx and curl), both on one shared
// base layer; and tiny images for unit tests. Tar, manifests and configs are written here byte by byte, so
// that one machine gives the same digests every time.
import { createHash } from 'node:crypto';
import {
  cpSync,
  existsSync,
  mkdirSync,
  readFileSync,
  readdirSync,
  realpathSync,
  renameSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { dirname, join } from 'node:path';
import { constants, gzipSync, zstdCompressSync } from 'node:zlib';
import { findCommand, makeDir, removeTree, repoRoot, runOk, tempDir } from './workspace.ts';

// --- layers --------------------------------------------------------------------------------------------

/** What is in a layer: a path without a leading slash, and a file, a link or a folder there. */
export type Entry = { bytes: Buffer; mode?: number } | { link: string } | { folder: true; mode?: number };
export type Entries = Map<string, Entry>;

export type Compression = 'gzip' | 'zstd' | 'none';
export type Layer = { bytes: Buffer; digest: string; diffId: string; mediaType: string };

const sha256 = (bytes: Buffer): string => `sha256:${createHash('sha256').update(bytes).digest('hex')}`;

const layerTypes = {
  gzip: 'application/vnd.oci.image.layer.v1.tar+gzip',
  zstd: 'application/vnd.oci.image.layer.v1.tar+zstd',
  none: 'application/vnd.oci.image.layer.v1.tar',
};

/** A layer with these entries; the folders above them are added. */
export function layerOf(entries: Entries, compression: Compression = 'gzip'): Layer {
  const tar = tarOf(withFolders(entries));
  const bytes = compress(tar, compression);
  return { bytes, digest: sha256(bytes), diffId: sha256(tar), mediaType: layerTypes[compression] };
}

function compress(tar: Buffer, compression: Compression): Buffer {
  if (compression === 'zstd') return zstdCompressSync(tar);
  return compression === 'gzip' ? gzipSync(tar, { level: constants.Z_BEST_SPEED }) : tar;
}

function withFolders(entries: Entries): Entries {
  const all: Entries = new Map(entries);
  for (const path of entries.keys()) {
    for (let dir = dirname(path); dir !== '.'; dir = dirname(dir)) {
      if (!all.has(dir)) all.set(dir, { folder: true });
    }
  }
  return new Map([...all].toSorted(([a], [b]) => (a < b ? -1 : 1)));
}

function tarOf(entries: Entries): Buffer {
  const parts = [...entries].flatMap(([path, entry]) => {
    const body = 'bytes' in entry ? entry.bytes : Buffer.alloc(0);
    return [tarHeader(path, entry, body.length), body, Buffer.alloc(-body.length & 511)];
  });
  return Buffer.concat([...parts, Buffer.alloc(1024)]);
}

function tarHeader(path: string, entry: Entry, size: number): Buffer {
  const header = Buffer.alloc(512);
  const octal = (value: number, at: number, width: number): unknown =>
    header.write(value.toString(8).padStart(width - 1, '0'), at, 'ascii');
  const [type, mode] =
    'bytes' in entry
      ? ['0', entry.mode ?? 0o644]
      : 'link' in entry
        ? ['2', 0o777]
        : ['5', entry.mode ?? 0o755];
  const name = type === '5' ? `${path}/` : path;
  if (Buffer.byteLength(name) > 100) throw new Error(`too long for this tar: ${name}`);
  header.write(name, 0);
  octal(mode, 100, 8);
  octal(0, 108, 8);
  octal(0, 116, 8);
  octal(size, 124, 12);
  octal(0, 136, 12);
  header.write(`        ${type}`, 148, 'ascii');
  if ('link' in entry) header.write(entry.link, 157);
  header.write('ustar\u000000', 257, 'binary');
  header.write(
    `${header
      .reduce((sum, byte) => sum + byte, 0)
      .toString(8)
      .padStart(6, '0')}\0 `,
    148,
    'binary',
  );
  return header;
}

// --- images --------------------------------------------------------------------------------------------

export type ImageConfig = {
  Env?: string[];
  Entrypoint?: string[];
  Cmd?: string[];
  User?: string;
  WorkingDir?: string;
};
export type Descriptor = { mediaType: string; digest: string; size: number };
export type Image = {
  /** Descriptor of the manifest. */
  manifest: Descriptor;
  /** Digest of the config: the image ID of a classic Docker engine. */
  configDigest: string;
  layers: Layer[];
  /** Manifest, config and layers by digest. */
  blobs: Map<string, Buffer>;
};

const manifestType = 'application/vnd.oci.image.manifest.v1+json';
const indexType = 'application/vnd.oci.image.index.v1+json';
const jsonBytes = (value: unknown): Buffer => Buffer.from(JSON.stringify(value));
const describe = (mediaType: string, bytes: Buffer): Descriptor => ({
  mediaType,
  digest: sha256(bytes),
  size: bytes.length,
});

/** The architecture of this machine in OCI's words. */
export const hostArchitecture = process.arch === 'x64' ? 'amd64' : process.arch;

/** Manifest and config for these layers. */
export function imageOf(
  layers: Layer[],
  config: ImageConfig,
  architecture: string = hostArchitecture,
): Image {
  const configBytes = jsonBytes({
    created: '2026-01-01T00:00:00Z',
    architecture,
    os: 'linux',
    config: { Env: ['PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin'], ...config },
    rootfs: { type: 'layers', diff_ids: layers.map((layer) => layer.diffId) },
    history: layers.map((_, i) => ({ created: '2026-01-01T00:00:00Z', created_by: `assembled layer ${i}` })),
  });
  const configDescriptor = describe('application/vnd.oci.image.config.v1+json', configBytes);
  const manifestBytes = jsonBytes({
    schemaVersion: 2,
    mediaType: manifestType,
    config: configDescriptor,
    layers: layers.map(({ mediaType, bytes }) => describe(mediaType, bytes)),
  });
  const manifest = describe(manifestType, manifestBytes);
  const blobs = new Map(layers.map((layer) => [layer.digest, layer.bytes]));
  blobs.set(configDescriptor.digest, configBytes).set(manifest.digest, manifestBytes);
  return { manifest, configDigest: configDescriptor.digest, layers, blobs };
}

/** Writes an OCI layout whose one entry is called `name` (skopeo: `oci:DIR:NAME`). */
export function writeLayout(
  dir: string,
  name: string,
  entry: Descriptor,
  blobs: Map<string, Buffer>,
): string {
  const store = makeDir(dir, 'blobs/sha256');
  for (const [digest, bytes] of blobs) writeFileSync(join(store, digest.slice(7)), bytes);
  writeFileSync(join(dir, 'oci-layout'), '{"imageLayoutVersion":"1.0.0"}');
  const annotations = { 'org.opencontainers.image.ref.name': name };
  const index = { schemaVersion: 2, mediaType: indexType, manifests: [{ ...entry, annotations }] };
  writeFileSync(join(dir, 'index.json'), jsonBytes(index));
  return dir;
}

export type TinyImageOptions = {
  name: string;
  /** Content of the file `/payload`. */
  payload: string | Buffer;
  /** Where the OCI layout is written; a temporary folder if not given. */
  dir?: string;
  compression?: Compression;
  architecture?: string;
  /** A second layer that every tiny image shares. */
  shared?: boolean;
};

export type TinyImage = Image & { name: string; dir: string };

/** A small image that need not run: one layer with a payload, and if asked one that all of them share. */
export function tinyImage(options: TinyImageOptions): TinyImage {
  const {
    name,
    payload,
    compression = 'gzip',
    architecture,
    shared = false,
    dir = tempDir('image'),
  } = options;
  const entries: Entries = new Map([['payload', { bytes: Buffer.from(payload) }]]);
  const layers = [layerOf(entries, compression)];
  if (shared)
    layers.unshift(
      layerOf(new Map([['etc/shared', { bytes: Buffer.from('the same in every tiny image\n') }]])),
    );
  const image = imageOf(layers, { Cmd: ['/payload'] }, architecture);
  return { ...image, name, dir: writeLayout(dir, name, image.manifest, image.blobs) };
}

// --- files of this machine -----------------------------------------------------------------------------

/** A file of the host under its own path; links on the way are resolved into one file. */
export function hostFile(path: string): Entry {
  const real = realpathSync(path);
  return { bytes: readFileSync(real), mode: statSync(real).mode & 0o111 ? 0o755 : 0o644 };
}

/** Shared libraries that these files need, the loader among them. */
async function librariesOf(files: string[]): Promise<string[]> {
  const listed = await runOk('ldd', files);
  const paths = [...listed.matchAll(/(?:=> |^\s+)(\/\S+) \(0x/gm)].map((match) => match[1] ?? '');
  return [...new Set(paths)].toSorted();
}

/** Debian's merged /usr: /lib is a link, so that both spellings of a path mean one file. */
export const inUsr = (path: string): string => path.replace(/^\/(lib|lib64|bin|sbin)\//, '/usr/$1/').slice(1);

/** Programs with their libraries, without what is in `base` already. */
export async function programs(paths: string[], base: Entries = new Map()): Promise<Entries> {
  const files = [...paths, ...(await librariesOf(paths))];
  return new Map(files.filter((path) => !base.has(inUsr(path))).map((path) => [inUsr(path), hostFile(path)]));
}

export function commandPath(name: string): string {
  const path = findCommand(name);
  if (path === undefined) throw new Error(`${name} is not installed (scripts/setup installs it)`);
  return path;
}

export const textFile = (text: string): Entry => ({ bytes: Buffer.from(text) });

/** What both images stand on: libc, a shell, curl (the health checks call it), the usual folders. */
export async function baseEntries(): Promise<Entries> {
  const entries = await programs([
    realpathSync('/bin/sh'),
    commandPath('curl'),
    commandPath('cat'),
    commandPath('env'),
  ]);
  entries.set('usr/bin/sh', hostFile('/bin/sh'));
  for (const name of ['bin', 'sbin', 'lib', 'lib64']) entries.set(name, { link: `usr/${name}` });
  for (const name of ['usr/sbin', 'usr/lib64', 'proc', 'sys', 'dev', 'run', 'root'])
    entries.set(name, { folder: true });
  for (const name of ['tmp', 'var/tmp']) entries.set(name, { folder: true, mode: 0o1777 });
  entries.set('etc/nsswitch.conf', textFile('passwd: files\ngroup: files\nhosts: files dns\n'));
  return entries;
}

export const users = (extra: string): Entry =>
  textFile(`root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534::/:/bin/false\n${extra}`);
export const groups = (extra: string): Entry => textFile(`root:x:0:\nnogroup:x:65534:\n${extra}`);

// --- engine --------------------------------------------------------------------------------------------

const standin = join(repoRoot, 'fixtures/engine-standin.py');
export const python = '/usr/bin/python3';

/** Where each engine's image has its program, and how it is started. */
const STANDINS = {
  vllm: { program: 'usr/local/bin/vllm', entrypoint: ['vllm', 'serve'] },
  sglang: { program: 'usr/lib/python3/dist-packages/sglang/launch_server.py', entrypoint: undefined },
  'llama-cpp': { program: 'app/llama-server', entrypoint: ['/app/llama-server'] },
  localai: { program: 'local-ai', entrypoint: ['/entrypoint.sh'] },
} as const;
export type StandIn = keyof typeof STANDINS;
export const STAND_INS = Object.keys(STANDINS) as StandIn[];

async function engineImage(base: Entries, name: StandIn): Promise<Image> {
  const [library, modules] = await pythonModules();
  const interpreter = await programs([python, ...modules.filter((path) => path.endsWith('.so'))], base);
  for (const path of modules) interpreter.set(inUsr(path), hostFile(path));
  interpreter.set(inUsr(join(library, 'lib-dynload/.keep')), textFile(''));
  const { program, entrypoint } = STANDINS[name];
  const files: Entries = new Map([
    [program, { bytes: readFileSync(standin), mode: 0o755 }],
    ['etc/passwd', users('vllm:x:2000:0:vllm:/home/vllm:/bin/sh\n')],
    ['etc/group', groups('')],
    ['home/vllm', { folder: true, mode: 0o1777 }],
  ]);
  if (name === 'localai') {
    files.set('entrypoint.sh', { bytes: Buffer.from('#!/bin/sh\nexec /local-ai "$@"\n'), mode: 0o755 });
    files.set('var/lib/local-ai/backends/llama-cpp/run.sh', {
      bytes: Buffer.from('#!/bin/sh\n'),
      mode: 0o755,
    });
  }
  const layers = [layerOf(base), layerOf(interpreter), layerOf(files)];
  const environment = [...pathEnv, 'PYTHONDONTWRITEBYTECODE=1'];
  // SGLang's image has no entry point that serves, only one that prints a banner and runs what it is given.
  return imageOf(layers, { Entrypoint: [...(entrypoint ?? ['/usr/bin/env'])], Env: environment });
}

export const pathEnv = ['PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin'];

/** The standard library's folder, and exactly the modules that the stand-in loads (and all text encodings). */
export async function pythonModules(): Promise<[library: string, modules: string[]]> {
  const probe = [
    'import encodings.idna, http.server, importlib.util, json, os, sys, urllib.request',
    'spec = importlib.util.spec_from_file_location("standin", sys.argv[1])',
    'module = importlib.util.module_from_spec(spec); spec.loader.exec_module(module)',
    'files = [getattr(m, "__file__", None) for m in list(sys.modules.values())]',
    'print(json.dumps([os.path.dirname(os.__file__), [f for f in files if f and f != sys.argv[1]]]))',
  ].join('\n');
  // -I and -S: neither the host's site-packages nor its environment take part. -B: leaves no __pycache__.
  const answer: [string, string[]] = JSON.parse(
    await runOk(python, ['-I', '-S', '-B', '-c', probe, standin]),
  );
  const encodings = join(answer[0], 'encodings');
  const all = readdirSync(encodings).filter((name) => name.endsWith('.py'));
  return [answer[0], [...new Set([...answer[1], ...all.map((name) => join(encodings, name))])].toSorted()];
}

// --- gateway -------------------------------------------------------------------------------------------

async function gatewayImage(base: Entries): Promise<Image> {
  const nginx = await programs([commandPath('nginx')], base);
  const open = { folder: true, mode: 0o1777 } as const;
  const layout: Entries = new Map<string, Entry>([
    [
      'etc/passwd',
      users('nginx:x:101:101:nginx:/nonexistent:/bin/false\nwww-data:x:33:33::/var/www:/bin/false\n'),
    ],
    ['etc/group', groups('nginx:x:101:\nwww-data:x:33:\n')],
    ['etc/nginx/mime.types', hostFile('/etc/nginx/mime.types')],
    ['etc/nginx/nginx.conf', textFile(nginxConf)],
    ['etc/nginx/conf.d', { folder: true }],
    ['var/log/nginx/access.log', { link: '/dev/stdout' }],
    ['var/log/nginx/error.log', { link: '/dev/stderr' }],
    ['var/lib/nginx', open],
    ['var/cache/nginx', open],
  ]);
  // As in the image of the nginx project, which starts as root and gives up its rights by `user nginx`.
  return imageOf([layerOf(base), layerOf(nginx), layerOf(layout)], {
    Cmd: ['nginx', '-g', 'daemon off;'],
    Env: pathEnv,
  });
}

const nginxConf = `user nginx;
worker_processes auto;
error_log /var/log/nginx/error.log notice;
pid /run/nginx.pid;
events { worker_connections 1024; }
http {
  include /etc/nginx/mime.types;
  default_type application/octet-stream;
  access_log /var/log/nginx/access.log;
  include /etc/nginx/conf.d/*.conf;
}
`;

// --- both ----------------------------------------------------------------------------------------------

export type Layouts = { engine: string; gateway: string };

/** The image of a stand-in as an OCI layout in `dir`; the name in it is `image`. */
export async function assembleEngine(dir: string, name: StandIn): Promise<string> {
  const { manifest, blobs } = await engineImage(await baseEntries(), name);
  return writeLayout(dir, 'image', manifest, blobs);
}

/** Assembles both images into OCI layouts under `dir`; what was made before from the same files is copied. */
export async function assembleImages(dir: string): Promise<Layouts> {
  const cached = join(repoRoot, '.cache/images', await cacheKey());
  if (!existsSync(cached)) await assembleInto(cached);
  const layouts = { engine: join(dir, 'engine'), gateway: join(dir, 'gateway') };
  mkdirSync(dir, { recursive: true });
  for (const name of ['engine', 'gateway'] as const)
    cpSync(join(cached, name), layouts[name], { recursive: true });
  return layouts;
}

/** Changes when a program, a library or the code that assembles changes. */
async function cacheKey(): Promise<string> {
  const binaries = [realpathSync('/bin/sh'), python, ...['curl', 'cat', 'env', 'nginx'].map(commandPath)];
  const files = [...binaries, ...(await librariesOf(binaries))].map((path) => realpathSync(path));
  const hash = createHash('sha256');
  for (const path of files) hash.update(`${path} ${statSync(path).size} ${statSync(path).mtimeMs}\n`);
  for (const path of [standin, import.meta.filename]) hash.update(readFileSync(path));
  return hash.digest('hex').slice(0, 16);
}

/** Into a folder beside it first: another test process may be assembling the same at this moment. */
async function assembleInto(target: string): Promise<void> {
  const work = `${target}.${process.pid}`;
  const base = await baseEntries();
  for (const [name, image] of [
    ['engine', await engineImage(base, 'vllm')],
    ['gateway', await gatewayImage(base)],
  ] as const) {
    writeLayout(join(work, name), 'image', image.manifest, image.blobs);
  }
  try {
    renameSync(work, target);
  } catch {
    removeTree(work); // The other one was first.
  }
  dropOld(dirname(target));
}

/** What was made from other binaries or other code. Not what is fresh: another process may be copying it. */
function dropOld(cache: string): void {
  const paths = readdirSync(cache).map((name) => join(cache, name));
  for (const path of paths) if (Date.now() - statSync(path).mtimeMs > 3_600_000) removeTree(path);
}

// --- registry ------------------------------------------------------------------------------------------

export type PushOptions = {
  /** Repository and tag of each image, for instance `library/nginx:1.29-alpine`. */
  names: Layouts;
  /** `user:password` for the registry. */
  credentials?: string;
};

/** Pushes both images as multi-arch indexes: this machine's platform and one that cannot run here. */
export async function pushImages(
  layouts: Layouts,
  registryHost: string,
  options: PushOptions,
): Promise<void> {
  for (const name of ['engine', 'gateway'] as const) {
    const dir = multiArch(layouts[name], tempDir('multi-arch'));
    await pushLayout(`${dir}:image`, `${registryHost}/${options.names[name]}`, options.credentials);
  }
}

/** Pushes one entry of an OCI layout (`DIR:NAME`), an index with all its platforms. */
export async function pushLayout(source: string, destination: string, credentials?: string): Promise<void> {
  const login = credentials ? ['--dest-creds', credentials] : [];
  // Without preserve-digests skopeo compresses plain layers on the way, which makes it another image.
  const flags = ['copy', '--quiet', '--all', '--preserve-digests', '--dest-tls-verify=false', ...login];
  await runOk('skopeo', [...flags, `oci:${source}`, `docker://${destination}`]);
}

type Index = { manifests: (Descriptor & { platform?: object })[] };

/** The same image in a new layout, as one of two platforms of an index. */
export function multiArch(layout: string, dir: string): string {
  cpSync(layout, dir, { recursive: true });
  const index: Index = JSON.parse(readFileSync(join(layout, 'index.json'), 'utf8'));
  const [own] = index.manifests;
  if (own === undefined) throw new Error(`${layout} has no image`);
  const foreign = hostArchitecture === 'arm64' ? 'amd64' : 'arm64';
  const other = imageOf(
    [layerOf(new Map([['other-platform', textFile('not for this machine\n')]]))],
    {},
    foreign,
  );
  const { mediaType, digest, size } = own;
  const bytes = jsonBytes({
    schemaVersion: 2,
    mediaType: indexType,
    manifests: [
      { ...other.manifest, platform: { os: 'linux', architecture: foreign } },
      { mediaType, digest, size, platform: { os: 'linux', architecture: hostArchitecture } },
    ],
  });
  const entry = describe(indexType, bytes);
  return writeLayout(dir, 'image', entry, new Map([...other.blobs, [entry.digest, bytes]]));
}
