// SPDX-License-Identifier: Apache-2.0
/** What Podman is asked in its own language, on the socket on which it speaks Docker's. */
import type Docker from 'dockerode';
import * as z from 'zod';
import type { PodmanDetails } from './anatomy.ts';

/** Podman takes every version from the oldest that it serves to its own; this is the oldest of Podman 4 and 5. */
const PREFIX = '/v4.0.0/libpod';

const Details = z.object({ BoundingCaps: z.array(z.string()).nullable() });

/** What it says of a container beyond Docker's form. */
export const podmanDetails = async (docker: Docker, id: string): Promise<PodmanDetails> =>
  Details.parse(await ask(docker, `/containers/${id}/json`));

/**
 * Podman leaves health checks to timers of systemd; where that is not, none is ever made, and what it says of a container's
 * health is old. This makes one. Its answer is of this one alone; the container's state counts those that failed.
 */
export async function makeHealthCheck(
  docker: Docker,
  { Id, Config, State }: Docker.ContainerInspectInfo,
): Promise<void> {
  if (State.Status !== 'running' || (Config.Healthcheck?.Test ?? []).length === 0) return;
  await ask(docker, `/containers/${Id}/healthcheck`).catch((error: { statusCode?: number }) => {
    // It answered: a container that has ended in the meantime has no health, and the next look will say so.
    if (error.statusCode === undefined) throw error;
  });
}

type Dial = (options: object, done: (error: Error | null, answer: object) => void) => void;

function ask(docker: Docker, path: string): Promise<object> {
  const modem = docker.modem as { dial: Dial };
  const options = { path: `${PREFIX}${path}`, method: 'GET', statusCodes: { 200: true } };
  return new Promise((done, fail) =>
    modem.dial(options, (error, answer) => {
      if (error) fail(error);
      else done(answer);
    }),
  );
}
