// SPDX-License-Identifier: Apache-2.0
/** Images of the containers that watch the others: a real Prometheus, and a stand-in for Grafana. */
import { join } from 'node:path';
import {
  baseEntries,
  commandPath,
  groups,
  hostFile,
  imageOf,
  inUsr,
  layerOf,
  pathEnv,
  programs,
  python,
  pythonModules,
  textFile,
  users,
  writeLayout,
  type Entries,
} from './images.ts';

/** Debian's Prometheus, with promtool, as in the image of the project. */
export async function assemblePrometheus(dir: string): Promise<string> {
  const base = await baseEntries();
  const both = await programs([commandPath('prometheus'), commandPath('promtool')], base);
  const layout: Entries = new Map([
    ['etc/passwd', users('')],
    ['etc/group', groups('')],
    ['prometheus', { folder: true, mode: 0o777 }],
  ]);
  const image = imageOf([layerOf(base), layerOf(both), layerOf(layout)], {
    Entrypoint: ['/usr/bin/prometheus'],
    Env: pathEnv,
    User: 'nobody',
  });
  return writeLayout(dir, 'prometheus', image.manifest, image.blobs);
}

/** What Grafana is asked for here: that it starts with its files and its password, and says that it is well. */
const GRAFANA = `import http.server, json, os
password = open(os.environ["GF_SECURITY_ADMIN_PASSWORD__FILE"]).read()
provisioning = os.environ["GF_PATHS_PROVISIONING"]
assert len(password) >= 20 and os.path.isdir(provisioning + "/datasources"), "not provisioned"
open("/var/lib/grafana/grafana.db", "w").close()
class Grafana(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = json.dumps({"database": "ok", "path": self.path, "host": self.headers.get("Host")}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *args):
        pass
http.server.ThreadingHTTPServer(("", 3000), Grafana).serve_forever()
`;
const WGET = `#!/usr/bin/python3
import sys, urllib.request
urllib.request.urlopen(sys.argv[-1], timeout=4)
`;

/** A stand-in for Grafana, which Debian does not have. */
export async function assembleGrafana(dir: string): Promise<string> {
  const base = await baseEntries();
  const [library, modules] = await pythonModules();
  const interpreter = await programs([python, ...modules.filter((path) => path.endsWith('.so'))], base);
  for (const path of modules) interpreter.set(inUsr(path), hostFile(path));
  interpreter.set(inUsr(join(library, 'lib-dynload/.keep')), textFile(''));
  const files: Entries = new Map([
    ['run.py', textFile(GRAFANA)],
    ['usr/bin/wget', { bytes: Buffer.from(WGET), mode: 0o755 }],
    ['var/lib/grafana', { folder: true, mode: 0o777 }],
    ['etc/passwd', users('grafana:x:472:0:grafana:/usr/share/grafana:/bin/false\n')],
    ['etc/group', groups('')],
  ]);
  const image = imageOf([layerOf(base), layerOf(interpreter), layerOf(files)], {
    Entrypoint: ['/usr/bin/python3', '-S', '-B', '/run.py'],
    Env: pathEnv,
    User: '472',
  });
  return writeLayout(dir, 'grafana', image.manifest, image.blobs);
}
