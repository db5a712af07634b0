// SPDX-License-Identifier: Apache-2.0
/**
 * Words for people are not mutated: tests hold the code of an error, and that it has a hint and details, but not
 * the wording. Whatever decides which error it is, and whether there is a hint, stands outside of these places.
 */

/** By the name that is called: the arguments that are words. */
const WORDS = {
  SealiftError: [1],
  TypeError: [0],
  RangeError: [0],
  Error: [0],
  asSealiftError: [1],
  parseJson: [1], // how messages call the document
  reject: [2],
  // zod
  describe: [0],
  regex: [1],
  refine: [1],
  custom: [1],
};

/** Helpers of one module each, `malformed(…, why)`: their last argument. */
const LAST = new Set(['malformed', 'invalid']);

/** Members of objects that hold words. */
const MEMBERS = new Set(['detail', 'error', 'hint', 'message']);

const nameOf = (callee) => callee.name ?? callee.property?.name;

/** All that is written with it is ASCII, which is the same bytes in every encoding of Node. */
const isEncoding = ({ node, listKey }) => listKey === 'arguments' && node.value === 'latin1';

function holdsWords({ parent, key, listKey }) {
  if (listKey === 'arguments') {
    const name = nameOf(parent.callee);
    return LAST.has(name)
      ? key === parent.arguments.length - 1
      : Object.hasOwn(WORDS, name) && WORDS[name].includes(key);
  }
  return parent?.type === 'ObjectProperty' && key === 'value' && MEMBERS.has(parent.key.name);
}

export const strykerPlugins = [
  {
    kind: 'Ignore',
    name: 'words',
    value: {
      shouldIgnore: (path) =>
        holdsWords(path) ? 'words for people' : isEncoding(path) ? 'an encoding' : undefined,
    },
  },
];
