// SPDX-License-Identifier: Apache-2.0
/** Images of the containers that watch the others: a real Prometheus and node_exporter, stand-ins for the rest. */
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

/** Python as a layer, on a base. */
async function pythonLayer(base: Entries): Promise<Entries> {
  const [library, modules] = await pythonModules();
  const interpreter = await programs([python, ...modules.filter((path) => path.endsWith('.so'))], base);
  for (const path of modules) interpreter.set(inUsr(path), hostFile(path));
  interpreter.set(inUsr(join(library, 'lib-dynload/.keep')), textFile(''));
  return interpreter;
}

const wget = { bytes: Buffer.from(WGET), mode: 0o755 };

/** A stand-in for Grafana, which Debian does not have. */
export async function assembleGrafana(dir: string): Promise<string> {
  const base = await baseEntries();
  const files: Entries = new Map([
    ['run.py', textFile(GRAFANA)],
    ['usr/bin/wget', wget],
    ['var/lib/grafana', { folder: true, mode: 0o777 }],
    ['etc/passwd', users('grafana:x:472:0:grafana:/usr/share/grafana:/bin/false\n')],
    ['etc/group', groups('')],
  ]);
  const image = imageOf([layerOf(base), layerOf(await pythonLayer(base)), layerOf(files)], {
    Entrypoint: ['/usr/bin/python3', '-S', '-B', '/run.py'],
    Env: pathEnv,
    User: '472',
  });
  return writeLayout(dir, 'grafana', image.manifest, image.blobs);
}

/** Debian's node_exporter; the image of the project has wget from busybox, this one from Python. */
export async function assembleNodeExporter(dir: string): Promise<string> {
  const base = await baseEntries();
  const exporter = await programs([commandPath('prometheus-node-exporter')], base);
  const files: Entries = new Map([
    ['usr/bin/wget', wget],
    ['etc/passwd', users('')],
    ['etc/group', groups('')],
  ]);
  const layers = [base, exporter, await pythonLayer(base), files].map((entries) => layerOf(entries));
  const image = imageOf(layers, {
    Entrypoint: ['/usr/bin/prometheus-node-exporter'],
    Env: pathEnv,
    User: 'nobody',
  });
  return writeLayout(dir, 'node-exporter', image.manifest, image.blobs);
}

/**
 * What dcgm-exporter is asked for here: the counters of a file, said for two GPUs with the labels of a real one (its
 * README, and outputs of it that people show). The second has 1 % of its memory left.
 */
const DCGM = `import http.server, os, sys
assert sys.argv[1] == "-f" and os.environ["NO_SETCAP"] == "1", sys.argv
lines = [line for line in open(sys.argv[2]) if not line.startswith("#")]
rows = [[cell.strip() for cell in line.split(",", 2)] for line in lines]
values = {"DCGM_FI_DEV_FB_FREE": [40000, 810], "DCGM_FI_DEV_FB_USED": [41000, 80190], "DCGM_FI_DEV_GPU_UTIL": [7, 99]}
text = ""
for field, kind, help in rows:
    text += f"# HELP {field} {help}\\n# TYPE {field} {kind}\\n"
    for gpu in (0, 1):
        labels = f'gpu="{gpu}",UUID="GPU-{gpu}",device="nvidia{gpu}",modelName="stand-in",Hostname="here"'
        text += f"{field}{{{labels}}} {values[field][gpu]}\\n"
class Dcgm(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = (text if self.path == "/metrics" else "OK").encode()
        self.send_response(200 if self.path in ("/metrics", "/health") else 404)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *args):
        pass
http.server.ThreadingHTTPServer(("", 9400), Dcgm).serve_forever()
`;

/** A stand-in for dcgm-exporter, which needs a GPU. As in the real image there is bash, and neither wget nor curl. */
export async function assembleDcgmExporter(dir: string): Promise<string> {
  const base = await baseEntries();
  const files: Entries = new Map([
    ['run.py', textFile(DCGM)],
    ['etc/passwd', users('')],
    ['etc/group', groups('')],
  ]);
  const bash = await programs([commandPath('bash')], base);
  const layers = [base, bash, await pythonLayer(base), files].map((entries) => layerOf(entries));
  const image = imageOf(layers, { Entrypoint: ['/usr/bin/python3', '-S', '-B', '/run.py'], Env: pathEnv });
  return writeLayout(dir, 'dcgm-exporter', image.manifest, image.blobs);
}
