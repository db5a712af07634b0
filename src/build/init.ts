// SPDX-License-Identifier: Apache-2.0
/** A manifest to start from. */
import { didYouMean } from '../document.ts';
import { SealiftError } from '../errors.ts';

interface Start {
  name: string;
  image: string;
  model: string;
  repo: string;
  include: string;
  options: string;
}

/** One row an engine that the installer knows. */
const STARTS: Readonly<Record<string, Start>> = {
  vllm: {
    name: 'qwen3-coder',
    image: 'docker.io/vllm/vllm-openai:v0.27.1',
    model: 'qwen3-coder',
    repo: 'Qwen/Qwen3-Coder-30B-A3B-Instruct',
    include: '["*.safetensors", "*.json", "tokenizer*", "merges.txt", "chat_template*", "*.py", "LICENSE*"]',
    options: 'max-model-len: 8192',
  },
};

/** Engines that `initManifest` has a start for. */
export const INIT_ENGINES: readonly string[] = Object.keys(STARTS);

/**
 * The text of a commented manifest, ready for `sealift lock`.
 * @param engine one of INIT_ENGINES
 * @throws {SealiftError} USAGE for another engine
 */
export function initManifest(engine: string): string {
  const start = Object.hasOwn(STARTS, engine) ? STARTS[engine] : undefined;
  if (start) return render(engine, start);
  throw new SealiftError('USAGE', `there is no manifest to start from for the engine '${engine}'`, {
    hint: didYouMean(engine, INIT_ENGINES) ?? `known engines: ${INIT_ENGINES.join(', ')}`,
  });
}

function render(engine: string, { name, image, model, repo, include, options }: Start): string {
  return `# What the bundle carries and what it starts. Lock it with \`sealift lock\`, review and commit the lock, then build.
apiVersion: sealift.dev/v1
kind: Bundle
metadata:
  name: ${name}
  version: 1.0.0 # semantic version; an enclave only ever installs upwards
platform: linux/amd64 # of the enclave hosts; or linux/arm64

# Container images. Tags are followed when you lock; the lock pins the digest.
# Also: docker-daemon:local/image:tag, oci-archive:./image.tar, oci:./layout
images:
  engine:
    from: ${image}
  gateway:
    from: docker.io/library/nginx:1.29-alpine

# Models. Branches are followed when you lock; the lock pins the commit and the sha256 of every file.
# Also: hf+https://hub.example/org/name@main for another hub, file:./weights for a folder
models:
  ${model}:
    from: hf:${repo}@main
    # By default every file is carried. A pattern without / is compared with every part of a path.
    include: ${include}
    # exclude: ["original"]

# Files that are carried as they are, by the name that they get in the bundle.
configs: {}
#  prometheus.yml: ./prometheus.yml

# Inference services, each with an image and a model from above.
services:
  chat:
    engine: ${engine}
    image: engine
    model: ${model}
    gpus: 2
    options: # the engine's own options, without the leading --
      ${options}

# The nginx in front: TLS, API key, streaming. Host name and certificate are the enclave's own (site.yaml).
gateway:
  image: gateway
`;
}
