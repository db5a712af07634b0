// SPDX-License-Identifier: Apache-2.0
/** Writes manifests/manifest.schema.json from the zod schema; a test fails when the two differ. */
import { writeFile } from 'node:fs/promises';
import { manifestJsonSchema } from '../src/build/manifest.ts';

await writeFile(new URL('../manifests/manifest.schema.json', import.meta.url), manifestJsonSchema());
