// SPDX-License-Identifier: Apache-2.0
import { defineConfig } from 'vitest/config';
import { BaseSequencer, type TestSpecification } from 'vitest/node';

/** Where most mutants die soonest: the tests of one file first, whole bundles and attacks last. */
const ORDER = ['test/json', 'test/bundle/', 'test/trust/', 'test/'];

class Nearest extends BaseSequencer {
  override sort(files: TestSpecification[]): Promise<TestSpecification[]> {
    const rank = ({ moduleId }: TestSpecification): number =>
      ORDER.findIndex((start) => moduleId.includes(`/${start}`));
    return Promise.resolve(files.toSorted((a, b) => rank(a) - rank(b)));
  }
}

/** The tests that judge a mutant: those of trust/, of the reader and of what both stand on. No daemons. */
export default defineConfig({
  test: {
    name: 'mutation',
    include: [
      'test/{trust,bundle}/**/*.test.ts',
      'test/attacks/{archive,delta,documents,identities,readings,rollback,rotation,signatures,swapped-media}.test.ts',
      'test/{json,text}.test.ts',
    ],
    // Fuzzing finds what nobody thought of; a mutant must fall to a test that says what is wrong.
    env: { SEALIFT_TEST_FUZZ: '0' },
    // For the same reason, and because instrumented loops over 16 KiB take a minute for each of these.
    testNamePattern: /^(?!.*(any damage to a slot|no bit of the JSON)).*$/,
    sequence: { sequencer: Nearest },
    isolate: false,
    testTimeout: 120_000, // instrumented, and two at a time
  },
});
