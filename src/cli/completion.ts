// SPDX-License-Identifier: Apache-2.0
/** Completion for shells, made from the command table. */
import { GLOBAL_OPTIONS } from './program.ts';
import { command, type Command, type OptionSpec } from './command.ts';

const SHELLS = ['bash', 'zsh', 'fish'] as const;

const longNames = (options: readonly OptionSpec[]): string[] =>
  [...options, ...GLOBAL_OPTIONS].map(({ flags }) => /--[a-z-]+/.exec(flags)![0]).concat('--help');

/** Words that may stand first, such as `trust` of `trust show`. */
const firstWords = (commands: readonly Command[]): string[] => [
  ...new Set(commands.map(({ name }) => name.split(' ')[0]!)),
];

const secondWords = (first: string, commands: readonly Command[]): string[] =>
  commands.flatMap(({ name }) => (name.startsWith(`${first} `) ? [name.split(' ')[1]!] : []));

function bash(commands: readonly Command[]): string {
  const groups = firstWords(commands).filter((first) => secondWords(first, commands).length > 0);
  return `_sealift() {
  local cur=\${COMP_WORDS[COMP_CWORD]} first=\${COMP_WORDS[1]} both="\${COMP_WORDS[1]} \${COMP_WORDS[2]}"
  local words=
  if [ "$COMP_CWORD" -eq 1 ]; then
    words="${firstWords(commands).join(' ')}"
  elif [ "$COMP_CWORD" -eq 2 ]; then
    case $first in
${groups.map((first) => `      ${first}) words="${secondWords(first, commands).join(' ')}" ;;`).join('\n')}
    esac
  fi
  if [ -z "$words" ] && [[ $cur == -* ]]; then
    case $both in
${commands
  .toSorted((a, b) => b.name.split(' ').length - a.name.split(' ').length)
  .map(
    ({ name, options }) =>
      `      "${name}"${name.includes(' ') ? '' : '\\ *'}) words="${longNames(options).join(' ')}" ;;`,
  )
  .join('\n')}
    esac
  fi
  COMPREPLY=($(compgen -W "$words" -- "$cur"))
  [ -n "$words" ] || COMPREPLY=($(compgen -f -- "$cur"))
}
complete -o filenames -F _sealift sealift`;
}

const zsh = (commands: readonly Command[]): string =>
  `#compdef sealift\nautoload -U +X bashcompinit && bashcompinit\n${bash(commands)}`;

function fish(commands: readonly Command[]): string {
  const lines = firstWords(commands).map((first) => {
    const { summary } = commands.find(({ name }) => name === first || name.startsWith(`${first} `))!;
    return `complete -c sealift -n __fish_use_subcommand -f -a ${first} -d ${quoted(summary)}`;
  });
  for (const { name, summary, options } of commands) {
    const [first, second] = name.split(' ');
    const seen = `__fish_seen_subcommand_from ${first}`;
    if (second !== undefined)
      lines.push(
        `complete -c sealift -n ${quoted(`${seen}; and not __fish_seen_subcommand_from ${second}`)} -f -a ${second} -d ${quoted(summary)}`,
      );
    const here = second === undefined ? seen : `${seen}; and __fish_seen_subcommand_from ${second}`;
    for (const { flags, about } of options)
      lines.push(
        `complete -c sealift -n ${quoted(here)} -l ${/--([a-z-]+)/.exec(flags)![1]} -d ${quoted(about)}`,
      );
  }
  return lines.join('\n');
}

const quoted = (text: string): string => `'${text.replace(/['\\]/g, '\\$&')}'`;

const SCRIPTS = { bash, zsh, fish };

/** The `completion` command over a table of the other commands. */
export const completion = (commands: () => readonly Command[]): Command =>
  command<{ shell: keyof typeof SCRIPTS }>({
    name: 'completion',
    summary: 'Print completions for a shell',
    about: [
      'For bash: sealift completion bash > /etc/bash_completion.d/sealift. For zsh: into a folder of $fpath, as _sealift. For fish: into ~/.config/fish/completions/sealift.fish.',
    ],
    positional: { name: 'SHELL', about: SHELLS.join(', '), required: true, choices: SHELLS },
    options: [],
    examples: [['sealift completion bash', 'for the shell that most hosts have']],
    exits: [],
    parse: (given) => ({ shell: given.positional as keyof typeof SCRIPTS }),
    run: async ({ shell }) => {
      const text = SCRIPTS[shell](commands());
      return { schema: 'sealift/completion/v1', data: { shell, text }, text: text.split('\n') };
    },
  });
