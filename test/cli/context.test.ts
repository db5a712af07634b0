// SPDX-License-Identifier: Apache-2.0
import { describe, expect, it } from 'vitest';
import { engineSocket, homeFolder, readEnvironment, storeFolder } from '../../src/cli/context.ts';
import { SealiftError } from '../../src/errors.ts';

describe('readEnvironment', () => {
  it('takes what the table names, and nothing else', () => {
    const env = {
      SEALIFT_HOME: '/h',
      SEALIFT_PASSPHRASE: 'x',
      NODE_OPTIONS: 'y',
      NO_COLOR: '',
      https_proxy: 'p',
      HTTPS_PROXY: 'q',
    };
    expect(readEnvironment(env)).toEqual({ SEALIFT_HOME: '/h', HTTPS_PROXY: 'p' });
  });
});

describe('a flag wins over the environment, which wins over the default', () => {
  it('home', () => {
    expect(homeFolder('/flag', { SEALIFT_HOME: '/env' })).toBe('/flag');
    expect(homeFolder(undefined, { SEALIFT_HOME: '/env' })).toBe('/env');
    expect(homeFolder(undefined, {})).toBe('/var/lib/sealift');
  });

  it('store', () => {
    const env = { SEALIFT_STORE: '/env', XDG_CACHE_HOME: '/xdg', HOME: '/me' };
    expect(storeFolder('/flag', env)).toBe('/flag');
    expect(storeFolder(undefined, env)).toBe('/env');
    expect(storeFolder(undefined, { XDG_CACHE_HOME: '/xdg', HOME: '/me' })).toBe('/xdg/sealift');
    expect(storeFolder(undefined, { HOME: '/me' })).toBe('/me/.cache/sealift');
  });

  it('engine', () => {
    expect(engineSocket('/flag.sock', { DOCKER_HOST: 'unix:///env.sock' })).toBe('/flag.sock');
    expect(engineSocket('unix:///flag.sock', {})).toBe('/flag.sock');
    expect(engineSocket(undefined, { DOCKER_HOST: 'unix:///env.sock' })).toBe('/env.sock');
    expect(engineSocket(undefined, {})).toBe('/var/run/docker.sock');
  });

  it.each(['tcp://10.0.0.1:2376', 'ssh://host', 'http://localhost'])(
    'no engine over the network: %s',
    (host) => {
      expect(() => engineSocket(undefined, { DOCKER_HOST: host })).toThrow(SealiftError);
      expect(() => engineSocket(host, {})).toThrow('only unix sockets');
    },
  );
});
