// SPDX-License-Identifier: Apache-2.0
/** The house rules of DESIGN §5, read from the sources and from what the enclave program is made of. */
import { execFile } from 'node:child_process';
import { mkdtemp, readdir, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join, posix, resolve } from 'node:path';
import { promisify } from 'node:util';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';

const root = resolve(import.meta.dirname, '..');

interface SourceFile {
  /** Relative to the repository, with `/`. */
  path: string;
  text: string;
  /** Targets of its imports: paths relative to the repository, or package names. */
  imports: { target: string; typeOnly: boolean }[];
}

/** Everything that names a module: static, dynamic and re-exporting imports. */
const IMPORT = /^(?:import|export)\s+(type\s)?(?:[^'";]*?\sfrom\s+)?'([^']+)'|import\(\s*'([^']+)'\s*\)/gm;

function importsOf(path: string, text: string): SourceFile['imports'] {
  return [...text.matchAll(IMPORT)].map(([, type, fixed, dynamic]) => {
    const name = fixed ?? dynamic ?? '';
    const target = name.startsWith('.') ? posix.join(dirname(path), name) : name;
    return { target, typeOnly: type !== undefined };
  });
}

async function readSources(): Promise<SourceFile[]> {
  const names = await readdir(join(root, 'src'), { recursive: true });
  const files = names.filter((name) => name.endsWith('.ts')).map((name) => `src/${name}`);
  return Promise.all(
    files.map(async (path) => {
      const text = await readFile(join(root, path), 'utf8');
      return { path, text, imports: importsOf(path, text.replace(HARMLESS, '')) };
    }),
  );
}

/** `src/build/sources/http.ts` → `build`; files right under src have no room of their own. */
const roomOf = (path: string): string => /^src\/([^/]+)\//.exec(path)?.[1] ?? '';

/** Rooms and single files that each room may import, beside itself and the files right under src. */
const ALLOWED: Readonly<Record<string, readonly string[]>> = {
  cli: ['audit', 'build', 'bundle', 'engines', 'install', 'store', 'trust'],
  audit: ['bundle', 'store', 'trust', 'src/install/receipt.ts'],
  build: ['bundle', 'engines', 'store', 'trust'],
  install: ['bundle', 'engines', 'store', 'trust'],
  engines: ['bundle', 'store'],
  bundle: ['store', 'trust'],
  trust: [],
  store: [],
};

/** Roots of the house: what stands right under src, and what it may import. */
const SHARED = [
  'src/errors.ts',
  'src/events.ts',
  'src/json.ts',
  'src/document.ts',
  'src/text.ts',
  'src/version.ts',
];

/** Of node:net these only look at text. */
const HARMLESS = /^import \{( ?(isIP|isIPv4|isIPv6),?)+ ?\} from 'node:net';$/gm;

const NETWORK = /^(node:)?(http|https|http2|net|tls|dns|dgram)(\/|$)|^(undici|axios|got|node-fetch|ws)(\/|$)/;

let sources: SourceFile[] = [];

beforeAll(async () => {
  sources = await readSources();
});

/** `file → import` for every import that breaks a rule; an empty list is what tests expect. */
function offences(breaks: (file: SourceFile, target: string, typeOnly: boolean) => boolean): string[] {
  return sources.flatMap((file) =>
    file.imports
      .filter(({ target, typeOnly }) => breaks(file, target, typeOnly))
      .map(({ target }) => `${file.path} → ${target}`),
  );
}

describe('the reader of imports', () => {
  it('sees every form that names a module', () => {
    const text = [
      "import a from 'one';",
      "import type { B } from './two.ts';",
      "import {\n  c,\n} from '../three.ts';",
      "import 'four';",
      "export { d } from './five.ts';",
      "  const e = await import('six');",
    ].join('\n');
    expect(importsOf('src/x/y.ts', text)).toEqual([
      { target: 'one', typeOnly: false },
      { target: 'src/x/two.ts', typeOnly: true },
      { target: 'src/three.ts', typeOnly: false },
      { target: 'four', typeOnly: false },
      { target: 'src/x/five.ts', typeOnly: false },
      { target: 'six', typeOnly: false },
    ]);
  });

  it('finds the sources', () => {
    expect(sources.length).toBeGreaterThan(30);
    expect(sources.flatMap((file) => file.imports).length).toBeGreaterThan(100);
  });
});

describe('the rooms of src', () => {
  it('import only what DESIGN §5 allows', () => {
    const found = offences((file, target) => {
      const room = roomOf(file.path);
      if (!target.startsWith('src/') || room === '' || SHARED.includes(target)) return false;
      return roomOf(target) !== room && !ALLOWED[room]!.some((ok) => ok === target || ok === roomOf(target));
    });
    expect(found).toEqual([]);
  });

  it('have a row each in the table', () => {
    const rooms = new Set(sources.map((file) => roomOf(file.path)).filter((room) => room !== ''));
    expect([...rooms].toSorted()).toEqual(Object.keys(ALLOWED).toSorted());
  });

  it('are not imported by what stands above them', () => {
    const found = offences(
      (file, target) => SHARED.includes(file.path) && target.startsWith('src/') && !SHARED.includes(target),
    );
    expect(found).toEqual([]);
  });

  it('import with .ts endings and from no path outside of src', () => {
    const found = offences(
      (_, target) => /^(\.|\/)/.test(target) || (target.startsWith('src/') && !target.endsWith('.ts')),
    );
    expect(found).toEqual([]);
  });
});

describe('what only one file may do', () => {
  it("Sigstore's own clients: none, their services are asked through build/sources/http.ts", () => {
    const found = offences((_, target) =>
      /^(@sigstore\/(sign|tuf)|sigstore|make-fetch-happen)(\/|$)/.test(target),
    );
    expect(found).toEqual([]);
  });

  it('network: build/sources/http.ts', () => {
    const found = offences(
      (file, target, typeOnly) =>
        NETWORK.test(target) && !typeOnly && file.path !== 'src/build/sources/http.ts',
    );
    expect(found).toEqual([]);
    const globals = sources.filter((file) =>
      /(?<![.\w#])(fetch|WebSocket|EventSource)\(/.test(withoutComments(file.text)),
    );
    expect(globals.map((file) => file.path)).toEqual([]);
  });

  it('processes: install/host.ts', () => {
    const found = offences(
      (file, target) =>
        /^(node:)?(child_process|cluster)$/.test(target) && file.path !== 'src/install/host.ts',
    );
    expect(found).toEqual([]);
  });

  it('environment: cli/context.ts', () => {
    const readers = sources.filter((file) =>
      /process\s*\.\s*env|process\[|\benv\b.*from 'node:process'/.test(withoutComments(file.text)),
    );
    expect(readers.map((file) => file.path)).toEqual(['src/cli/context.ts']);
  });

  it('printing: cli only', () => {
    const printers = sources.filter(
      (file) =>
        roomOf(file.path) !== 'cli' &&
        /\bconsole\.|process\.(stdout|stderr)/.test(withoutComments(file.text)),
    );
    expect(printers.map((file) => file.path)).toEqual([]);
  });
});

const withoutComments = (text: string): string => text.replace(/\/\*[\s\S]*?\*\/|^\s*\/\/.*$/gm, '');

describe('every source file', () => {
  it('has at most 500 lines', () => {
    const long = sources.filter((file) => file.text.split('\n').length > 501);
    expect(long.map((file) => file.path)).toEqual([]);
  });

  it('starts with the licence', () => {
    const bare = sources.filter((file) => !file.text.startsWith('// SPDX-License-Identifier: Apache-2.0\n'));
    expect(bare.map((file) => file.path)).toEqual([]);
  });
});

describe('the built programs', () => {
  let dist = '';
  const inputsOf = async (name: string): Promise<string[]> => {
    const meta: unknown = JSON.parse(await readFile(join(dist, `meta-${name}.json`), 'utf8'));
    return Object.keys((meta as { inputs: object }).inputs);
  };
  const build = async (folder: string): Promise<void> => {
    await promisify(execFile)(process.execPath, ['scripts/build.ts', folder], { cwd: root });
  };

  beforeAll(async () => {
    dist = await mkdtemp(join(tmpdir(), 'sealift-dist-'));
    await build(dist);
  });
  afterAll(() => rm(dist, { recursive: true, force: true }));

  it('the enclave holds nothing that fetches or signs bundles', async () => {
    const inputs = await inputsOf('enclave');
    expect(inputs).toContain('src/bundle/open.ts');
    expect(inputs).toContain('src/trust/verify.ts');
    const forbidden =
      /^src\/build\/|^src\/trust\/(sign|private-keys|cosign-key|pkcs8|ecdsa-der)\.ts$|node_modules\/(@noble\/ciphers|@sigstore\/sign|@sigstore\/tuf|sigstore|@huggingface\/hub|undici|make-fetch-happen|ssh2|@grpc\/grpc-js|protobufjs)\//;
    expect(inputs.filter((input) => forbidden.test(input))).toEqual([]);
  });

  it('the enclave signs receipts, in one file, and nothing else', async () => {
    const own = (await inputsOf('enclave')).filter((input) => input.startsWith('src/'));
    const texts = await Promise.all(own.map((input) => readFile(join(root, input), 'utf8')));
    const signers = own.filter((_, i) =>
      /import \{[^}]*\b(sign|createSign)\b[^}]*\} from 'node:crypto'/.test(texts[i]!),
    );
    expect(signers).toEqual(['src/install/attest.ts']);
  });

  it('the enclave loads no network module but what the client of the Docker socket needs', async () => {
    const meta: unknown = JSON.parse(await readFile(join(dist, 'meta-enclave.json'), 'utf8'));
    const { inputs } = meta as { inputs: Record<string, { imports: { path: string }[] }> };
    const users = Object.entries(inputs)
      .filter(([, { imports }]) => imports.some(({ path }) => NETWORK.test(path)))
      .map(([input]) => input);
    // Sources of ours are judged by the rule above, with what they import from node:net.
    const others = users.filter(
      (input) => !input.startsWith('node_modules/docker-modem/') && !input.startsWith('src/'),
    );
    expect(others).toEqual([]);
  });

  it('the whole program holds both sides', async () => {
    const inputs = await inputsOf('sealift');
    for (const path of ['src/build/build.ts', 'src/trust/sign.ts', 'src/bundle/open.ts'])
      expect(inputs).toContain(path);
  });

  it('start, and come out the same bit for bit when built again', async () => {
    const again = await mkdtemp(join(tmpdir(), 'sealift-dist-'));
    try {
      await build(again);
      for (const name of ['sealift.mjs', 'enclave.mjs', 'transfer-worker.mjs', 'meta-enclave.json']) {
        expect(await readFile(join(again, name))).toEqual(await readFile(join(dist, name)));
      }
      const { stdout } = await promisify(execFile)(join(again, 'enclave.mjs'), ['--version'], {
        env: { PATH: `${dirname(process.execPath)}:/usr/bin:/bin` },
      });
      expect(stdout).toMatch(/^sealift \d+\.\d+\.\d+\n$/);
    } finally {
      await rm(again, { recursive: true, force: true });
    }
  });
});
