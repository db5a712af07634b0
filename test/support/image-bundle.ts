// SPDX-License-Identifier: Apache-2.0
/** A bundle of two small images and a model, without services, made and installed by the built programs. */
import { randomBytes } from 'node:crypto';
import { existsSync, mkdirSync, readFileSync, readdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { engineFlags, makeKeys, provisionHome, sealift } from './stack.ts';
import type { DockerEngine } from './docker.ts';
import { tinyImage, type TinyImage } from './images.ts';
import { runOk, tempDir, type RunResult } from './workspace.ts';

/** References of the images, in the order in which they are loaded. */
export const REFS = ['registry.example.org/group/one:1', 'registry.example.org/group/two:1'] as const;

export type Failure = { code: string; message: string; details: { label: string; value: string }[] };

export type ImageBundle = {
  path: string;
  /** By their references. */
  images: Record<(typeof REFS)[number], TinyImage>;
  /** A third image, which the bundle does not have, as an archive with the second one's reference. */
  other: TinyImage & { archive: string };
  /** Runs a command of the enclave's program in a home, by an engine's socket. */
  inside(args: string[], home: string, engine: DockerEngine, socket?: string): Promise<RunResult>;
  /** A new home as administrators provision it. */
  makeHome(): Promise<string>;
};

/** Layers that no other test has: a containerd store keeps content for a while after it was removed. */
export async function makeImageBundle(): Promise<ImageBundle> {
  const work = tempDir('images');
  const image = (name: string): TinyImage =>
    tinyImage({
      name,
      // The second one is more than what the pipes on the way to the engine hold.
      payload: randomBytes(name === 'two' ? 2 ** 22 : 2 ** 16),
      dir: join(work, name),
      shared: name !== 'other',
    });
  const [one, two, other] = [image('one'), image('two'), image('other')];
  mkdirSync(join(work, 'weights'));
  writeFileSync(join(work, 'weights/config.json'), '{"model_type":"tiny"}\n');
  writeFileSync(join(work, 'images.yaml'), manifest());
  const keys = await makeKeys(work);
  const path = join(work, 'images.sealift.tar');
  const store = ['--store', join(work, 'store')];
  for (const args of [
    ['lock', 'images.yaml', ...store],
    ['build', 'images.yaml', '-o', path, ...keys.flags, ...store],
  ]) {
    const { code, stderr } = await sealift(args, { cwd: work });
    if (code !== 0) throw new Error(`sealift ${args[0]} ended with ${code}: ${stderr}`);
  }
  return {
    path,
    images: { [REFS[0]]: one, [REFS[1]]: two },
    other: { ...other, archive: await archiveOf(other, REFS[1]) },
    inside: (args, home, engine, socket = engine.socket) =>
      sealift([...args, '--home', home, ...engineFlags({ ...engine, socket })], {
        side: 'inside',
        cwd: work,
        env: { ...process.env, ...engine.composeEnv },
      }),
    makeHome: async () => {
      const home = join(tempDir('home'), 'home');
      await provisionHome(home, [readFileSync(keys.public, 'utf8')], 1);
      return home;
    },
  };
}

function manifest(): string {
  const platform = process.arch === 'arm64' ? 'linux/arm64' : 'linux/amd64';
  const images = REFS.map((ref) => {
    const name = /\/(\w+):/.exec(ref)?.[1] ?? '';
    return `  ${name}: { from: 'oci:./${name}', as: '${ref}' }\n`;
  });
  return `apiVersion: sealift.dev/v1\nkind: Bundle\nmetadata: { name: images, version: 1.0.0 }\nplatform: ${platform}\nimages:\n${images.join('')}models:\n  tiny: { from: 'file:./weights' }\n`;
}

/** A docker-archive of an image, for `docker load`. */
async function archiveOf(image: TinyImage, ref: string): Promise<string> {
  const file = join(tempDir('archive'), 'image.tar');
  const source = `oci:${image.dir}:${image.name}`;
  await runOk('skopeo', ['copy', '--quiet', source, `docker-archive:${file}:${ref}`]);
  return file;
}

/** What a bundle left in a home: blobs, models, configs, releases, spooled files, `current`, the journal. */
export function leftIn(home: string): string[] {
  const folders = ['blobs/sha256', 'models', 'configs', 'releases', 'partial', 'spool'];
  const inFolders = folders.flatMap((folder) =>
    existsSync(join(home, folder)) ? readdirSync(join(home, folder)).map((name) => join(folder, name)) : [],
  );
  return [...inFolders, ...readdirSync(home).filter((name) => /^(current|journal)/.test(name))];
}

/** The error that a command run with --json told. */
export function failureOf(result: RunResult): Failure {
  const { problem } = JSON.parse(result.stdout) as { problem: Failure };
  return problem;
}
