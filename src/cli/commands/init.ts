// SPDX-License-Identifier: Apache-2.0
import { initManifest } from '../../build/init.ts';
import { command } from '../command.ts';
import { writeNew } from '../new-file.ts';
import { DEFAULT_MANIFEST } from '../sources.ts';

export const init = command<{ file: string }>({
  name: 'init',
  summary: 'Write a commented manifest to start from',
  about: [
    'Writes a manifest that names images, a model, a service and a gateway, with a comment on each part. A file that is there is never overwritten.',
  ],
  positional: {
    name: 'FILE',
    about: `the manifest to write (default: ${DEFAULT_MANIFEST})`,
    required: false,
  },
  options: [],
  examples: [['sealift init', `writes ${DEFAULT_MANIFEST} in this folder`]],
  exits: [],
  parse: (given) => ({ file: given.positional ?? DEFAULT_MANIFEST }),
  run: async ({ file }) => {
    await writeNew(file, initManifest('vllm'));
    return {
      schema: 'sealift/init/v1',
      data: { manifest: file },
      text: [
        `wrote ${file}`,
        `next: edit it, then sealift lock${file === DEFAULT_MANIFEST ? '' : ` ${file}`}`,
      ],
    };
  },
});
