// SPDX-License-Identifier: Apache-2.0
/** RUNBOOK.md of a release: what an operator does on this very host, with its names and paths filled in. */
import type { Inventory } from '../bundle/inventory.ts';
import type { Service } from '../engines/index.ts';
import { apiKeysFile } from './api-keys.ts';
import { alertsOf } from './monitoring.ts';
import { PROMETHEUS } from './monitoring-names.ts';
import type { EngineKind } from './engine-facts.ts';
import { releaseName, type Home } from './home.ts';
import { gatewayUrl, type Site } from './site.ts';
import { containersOf, gatewayService, projectName } from './targets/compose.ts';

export interface RunbookInput {
  /** Its command has the same words, whichever it is. */
  engine: EngineKind;
  home: Home;
  inventory: Inventory;
  site: Site;
  services: readonly Service[];
  tls: { expires: Date };
}

export function renderRunbook(input: RunbookInput): string {
  const { home, inventory, site } = input;
  const at = home.root === '/var/lib/sealift' ? '' : ` --home ${home.root}`;
  return [
    `# ${inventory.name} ${inventory.version} on ${site.hostName}`,
    '',
    'Written by sealift; an install replaces it. `sealift help` explains every command and every error code; no network is needed.',
    '',
    ...whatRuns(input),
    ...daily(input, at),
    ...changes(input, at),
    ...alerts(input),
    ...trouble(input),
  ].join('\n');
}

function whatRuns({ home, inventory, site, services }: RunbookInput): string[] {
  const url = gatewayUrl(site);
  const several = services.length > 1;
  return [
    '## What runs',
    '',
    `Clients reach \`${url}/v1\` with a key in \`Authorization: Bearer\`. Everything is under \`${home.root}\`, this release under \`releases/${releaseName(inventory)}\`.`,
    '',
    '| service | model | path | containers | GPUs each |',
    '| --- | --- | --- | --- | --- |',
    ...services.map((service, i) => {
      const path = several ? `\`/${service.name}/v1\`${i === 0 ? ' and `/v1`' : ''}` : '`/v1`';
      const containers = containersOf(service).map((name) => `\`${containerName(inventory.name, name)}\``);
      return `| ${service.name} | ${service.servedModel} | ${path} | ${containers.join(', ')} | ${service.gpus} |`;
    }),
    `| gateway (nginx) | - | all | \`${containerName(inventory.name, gatewayService(services))}\` | 0 |`,
    '',
  ];
}

/** As Compose names the first container of a service. */
const containerName = (bundle: string, service: string): string => `${projectName(bundle)}-${service}-1`;

const AFTER_RESTART: Readonly<Record<EngineKind, string>> = {
  docker:
    'After a restart of the host or of Docker all containers that were not stopped by hand start by themselves.',
  podman:
    'After a restart of the host containers start by themselves only where podman-restart.service starts those with the policy unless-stopped, too; otherwise: `podman start --all --filter restart-policy=unless-stopped`.',
};

function daily({ engine: cli, inventory, site, services }: RunbookInput, at: string): string[] {
  const gateway = containerName(inventory.name, gatewayService(services));
  const [first] = services;
  const engine = containerName(inventory.name, first === undefined ? 'SERVICE' : containersOf(first)[0]!);
  const all = [...services.flatMap(containersOf), gatewayService(services)]
    .map((name) => containerName(inventory.name, name))
    .join(' ');
  return [
    '## Every day',
    '',
    ...section('Is it well?', [
      `sealift status${at}`,
      `curl --cacert CA.pem ${gatewayUrl(site)}/health`,
      `sealift audit${at}          # hashes everything; as long as reading all weights`,
    ]),
    ...section('Logs', [
      `${cli} logs --since 1h ${engine}`,
      `${cli} logs --since 1h ${gateway}     # a line of JSON for each request: key's name, path, status, seconds`,
    ]),
    ...section('Stop, and start again', [`${cli} stop ${all}`, `${cli} start ${all}`]),
    `${AFTER_RESTART[cli]} A large model takes minutes to load; until then \`/health\` answers 502 or 503.`,
    '',
  ];
}

function changes({ home, site }: RunbookInput, at: string): string[] {
  return [
    '## Changes',
    '',
    ...section(`API keys (in \`${apiKeysFile(site, home)}\`; nothing is restarted)`, [
      `sealift keys list${at}`,
      `sealift keys add NAME${at}`,
      `sealift keys rotate NAME${at}`,
      `sealift keys remove NAME${at}`,
    ]),
    ...section(
      `A new certificate: put it and its key where site.yaml says (\`${site.tls.certificate}\`, \`${site.tls.key}\`), then`,
      [`sealift reload${at}`],
    ),
    ...section('A new release', [
      `sealift doctor /media/usb${at}`,
      `sealift install /media/usb${at}       # shows the plan and asks; when the new one fails, the old one is started again`,
    ]),
    ...section('Back to the release before', [`sealift rollback --reason "why, and which ticket"${at}`]),
    ...section('Old releases that nobody will go back to', [`sealift gc${at}`]),
    ...section('Remove everything that sealift placed', [`sealift uninstall${at}`]),
  ];
}

const section = (title: string, commands: readonly string[]): string[] => [
  `${title}:`,
  '',
  '```sh',
  ...commands,
  '```',
  '',
];

function alerts({ engine: cli, home, inventory, site, services, tls }: RunbookInput): string[] {
  if (inventory.monitoring === undefined) return [];
  const all = new Map(alertsOf({ inventory, services, expires: tls.expires }).map((a) => [a.alert, a]));
  return [
    '## Alerts',
    '',
    '| alert | meaning | what to do |',
    '| --- | --- | --- |',
    ...[...all.values()].map(
      ({ alert, annotations }) =>
        `| ${alert} | ${annotations.summary.replace(/^[^:]+: /, '')} | ${annotations.action} |`,
    ),
    '',
    inventory.monitoring.grafana === undefined
      ? `Prometheus shows what is firing: ${cli} exec ${containerName(inventory.name, PROMETHEUS)} promtool query instant http://127.0.0.1:9090 ALERTS`
      : `Grafana is at ${gatewayUrl(site)}/grafana/ for the networks under \`monitoring\` in site.yaml: user admin, password in \`${home.path('current/secrets/monitoring/grafana-admin')}\`.`,
    '',
  ];
}

function trouble({ engine: cli, home, inventory, services }: RunbookInput): string[] {
  const gateway = containerName(inventory.name, gatewayService(services));
  const rows = [
    [
      '401',
      'the key is missing or wrong',
      '`sealift keys list`; the log of the gateway names the key of each request',
    ],
    [
      '404',
      'no such path, or the gateway does not let it through',
      'paths are those of the OpenAI API that the engine has',
    ],
    ['413', 'the request is larger than `limits.bodyMiB`', 'raise it in site.yaml, then `sealift reload`'],
    [
      '429',
      'more than `limits` in site.yaml allows',
      'the client waits and asks again; or raise the limit, then `sealift reload`',
    ],
    ['502', 'the engine does not answer: it starts, or has ended', `\`${cli} ps -a\`, then its log`],
    ['503', 'the engine is loading its model', 'wait; the log says how far it is'],
    ['504', 'no token for an hour', `the engine hangs: its log, \`nvidia-smi\`, then \`${cli} restart\``],
  ];
  return [
    '## When something is wrong',
    '',
    '| answer | meaning | what to do |',
    '| --- | --- | --- |',
    ...rows.map((row) => `| ${row.join(' | ')} |`),
    '',
    ...section('An engine that does not start: its last words, and whether the GPUs are there and free', [
      ...services.map(
        (service) => `${cli} logs --tail 50 ${containerName(inventory.name, containersOf(service)[0]!)}`,
      ),
      'nvidia-smi',
      `${cli} inspect --format '{{json .State.Health}}' ${gateway}`,
    ]),
    `An install that was broken off is said by \`sealift status\`: the same install, run again, goes on, and \`sealift uninstall\` takes it back. What this host remembers (versions, trust policy, time) is in \`${home.root}/installed.json\`, \`trust-state.json\` and \`trust/\`: keep them in the backup, with \`secrets/\`.`,
    '',
  ];
}
