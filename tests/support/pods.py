"""Plays the demo overlay without a cluster: every container as its manifest says.

Each pod is a network namespace, each container a read-only root with the mounts, the user and the
modes that its manifest gives it, running the real programs of this tree. NetworkPolicies, limits
and storage drivers are not played. It must be root, in namespaces of its own:

unshare --net --mount --pid --fork --mount-proc --kill-child python -m support.pods FOLDER
"""

import os
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

from support.manifests import ROOT, find_kubectl, kind, render, space, workloads

USER = 10001
DEADLINE_S = 450.0
STEP_DEADLINE_S = 120.0
PAUSE_S = 1.0
ROUNDS = 3
OPERATOR = ("harbour", "operator")
FLEET = "superlink.harbour.svc"
INSTITUTIONS = ("alder", "birch", "cedar")
SUPERLINK_FILES = ("ca.pem", "server.pem", "server.key", "superexec.secret")
# As in docker/*.Dockerfile.
IMAGE = {
    "PATH": f"{sys.prefix}/bin:/usr/bin:/bin",
    "PYTHONPATH": "/code",
    "PYTHONDONTWRITEBYTECODE": "1",
    "PYTHONUNBUFFERED": "1",
    "HOME": "/tmp",
    "LOGNAME": "ipfl",
    "FLWR_HOME": "/tmp/flwr",
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.5",
    "OMP_NUM_THREADS": "1",
    "MALLOC_ARENA_MAX": "2",
}
# From inside its pod, as port-forward does.
ASK_CONSOLE = """
import json, urllib.request
token = open("/run/ipfl/console/operator-token").read()
asked = urllib.request.Request(
    "http://127.0.0.1:8080/api/v1/rounds", headers={"Authorization": f"Bearer {token}"}
)
newest = json.load(urllib.request.urlopen(asked, timeout=30))["rounds"][0]
print("round", newest["number"], newest["state"])
"""


def command(*words, **options):
    """Run a command to its end and return what it printed."""
    done = subprocess.run(
        words, capture_output=True, text=True, check=False, timeout=STEP_DEADLINE_S, **options
    )
    assert done.returncode == 0, f"{shlex.join(map(str, words))}: {done.stdout}{done.stderr}"
    return done.stdout


def bind(source, target, *, read_only):
    command("mount", "--bind", source, target)
    if read_only:
        command("mount", "-o", "remount,bind,ro", target)


class Container:
    """A container: its root is made at once, its program started by `start`."""

    def __init__(self, found, spec, volumes, folder, hosts):
        self._network, self._spec = f"{found.namespace}-{found.name}", spec
        name = f"{self._network}-{spec['name']}"
        self._root, self.log = folder / "roots" / name, folder / f"{name}.log"
        self._process = None
        self._make_root(hosts)
        for mount in sorted(spec["volumeMounts"], key=lambda mount: mount["mountPath"].count("/")):
            source, target = volumes[mount["name"]], self._inside(mount["mountPath"])
            if "subPath" in mount:
                source /= mount["subPath"]
                target.touch()
            else:
                target.mkdir(parents=True)
            bind(source, target, read_only=mount.get("readOnly", False))
        command("mount", "-o", "remount,ro", self._root)

    def _inside(self, path):
        return self._root / str(path).lstrip("/")

    def _make_root(self, hosts):
        self._root.mkdir(parents=True)
        command("mount", "-t", "tmpfs", "-o", "mode=755", "root", self._root)
        for link in (path for path in Path("/").iterdir() if path.is_symlink()):
            self._inside(link).symlink_to(link.readlink())
        programs = {Path("/usr"), Path(sys.prefix), Path(sys.base_prefix)} - {Path("/usr/local")}
        for source, target in [*((path, path) for path in sorted(programs)), (ROOT, "/code")]:
            if not self._inside(target).exists():
                self._inside(target).mkdir(parents=True)
                bind(source, self._inside(target), read_only=True)
        for name in ("etc", "proc", "dev"):
            self._inside(name).mkdir()
        for name in ("passwd", "group", "nsswitch.conf", "ld.so.cache", "mime.types"):
            if Path("/etc", name).exists():
                shutil.copy(Path("/etc", name), self._inside("etc"))
        self._inside("etc/hosts").write_text(hosts)
        command("mount", "-t", "proc", "proc", self._inside("proc"))
        command("mount", "--rbind", "/dev", self._inside("dev"))

    def _words(self, words):
        environment = IMAGE | {each["name"]: each["value"] for each in self._spec.get("env", [])}
        return [
            *("ip", "netns", "exec", self._network, "chroot", self._root),
            *("setpriv", f"--reuid={USER}", f"--regid={USER}", f"--groups={USER}"),
            *("--no-new-privs", "--bounding-set=-all", "env", "-C", "/tmp", "-i"),
            *(f"{name}={value}" for name, value in environment.items()),
            *words,
        ]

    def start(self):
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self._words(self._spec["command"]), stdout=log, stderr=subprocess.STDOUT
            )

    def restart_if_ended(self):
        if self._process.poll() is not None:
            print(f"{self.log.stem} ended with {self._process.returncode}, and is started again")
            self.start()

    def end(self):
        self._process.terminate()
        self._process.wait(STEP_DEADLINE_S)

    def run(self, *words):
        return command(*self._words(words))

    def healthy(self, probe):
        words = self._words(self._spec[probe]["exec"]["command"])
        return subprocess.run(words, capture_output=True, check=False, timeout=30).returncode == 0


class Cluster:
    """The overlay's pods, what `kubectl create secret` makes for them, and the people's desk."""

    def __init__(self, folder):
        self.folder, self.desk = folder, folder / "desk"
        self.desk.mkdir()
        self.secrets = {}
        self.started = []
        self._objects = render(find_kubectl(), "demo")
        self._pods = {(pod.namespace, pod.name): pod for pod in workloads(self._objects)}
        self._addresses = {key: f"10.77.0.{i + 2}" for i, key in enumerate(self._pods)}
        command("mount", "-t", "tmpfs", "run", "/run")  # ip keeps the names of namespaces there
        command("ip", "link", "add", "cluster", "type", "bridge")
        command("ip", "link", "set", "cluster", "up")
        for i, (key, address) in enumerate(self._addresses.items()):
            name = "-".join(key)
            inside = ("ip", "-n", name)
            command("ip", "netns", "add", name)
            peer = ("peer", "name", "eth0", "netns", name)
            command("ip", "link", "add", f"pod{i}", "type", "veth", *peer)
            command("ip", "link", "set", f"pod{i}", "master", "cluster", "up")
            command(*inside, "addr", "add", f"{address}/24", "dev", "eth0")
            command(*inside, "link", "set", "eth0", "up")
            command(*inside, "link", "set", "lo", "up")

    def at_desk(self, *words):
        """Run `ipfl` where people sit."""
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        return command(f"{sys.prefix}/bin/ipfl", *words, cwd=self.desk, env=environment)

    def keep_secret(self, namespace, name, folder, files):
        content = {file: (self.desk / folder / file).read_bytes() for file in files}
        self.secrets.setdefault(namespace, {})[name] = content

    def start(self, namespace, name):
        """Start a pod; return its containers by name."""
        found = self._pods[namespace, name]
        hosts = f"127.0.0.1 localhost\n{self._addresses[OPERATOR]} {FLEET}\n"
        if (namespace, "trainer") in self._addresses:
            hosts += f"{self._addresses[namespace, 'trainer']} trainer\n"
        volumes = {each: self._volume(found, each, v) for each, v in found.volumes().items()}
        made = {
            each["name"]: Container(found, each, volumes, self.folder, hosts)
            for each in found.containers
        }
        for each in made.values():
            each.start()
            self.started.append(each)
        return made

    def volume(self, namespace, pod, name):
        return self.folder / "volumes" / namespace / pod / name

    def _volume(self, found, name, source):
        """Make a volume as the kubelet does: root's, and for the group that fsGroup names."""
        claim = source.get("persistentVolumeClaim", {}).get("claimName")
        folder = self.volume(found.namespace, "" if claim else found.name, claim or name)
        if claim and folder.exists():
            return folder  # another pod's, too
        folder.mkdir(parents=True)
        os.chown(folder, 0, USER)
        folder.chmod(0o2775 if claim else 0o2777 if "emptyDir" in source else 0o755)
        files, mode = {}, 0o644
        if "secret" in source:
            content = self.secrets[found.namespace][source["secret"]["secretName"]]
            items = source["secret"].get("items", [{"key": key, "path": key} for key in content])
            files = {item["path"]: content[item["key"]] for item in items}
            mode = source["secret"]["defaultMode"]
        elif "configMap" in source:
            [data] = [
                item["data"]
                for item in kind(self._objects, "ConfigMap")
                if (space(item), item["metadata"]["name"])
                == (found.namespace, source["configMap"]["name"])
            ]
            files = {file: _shorter(text).encode() for file, text in data.items()}
        for file, content in files.items():
            (folder / file).write_bytes(content)
            os.chown(folder / file, 0, USER)
            (folder / file).chmod(mode)
        return folder

    def wait(self, what, condition):
        """Wait until it holds, starting again what has ended."""
        end = time.monotonic() + DEADLINE_S
        while not condition():
            assert time.monotonic() < end, f"{what}: not within {DEADLINE_S:g} s"
            time.sleep(PAUSE_S)
            for each in self.started:
                each.restart_if_ended()
        print(what, flush=True)


def _shorter(text):
    return text.replace("\nrounds = 6\n", f"\nrounds = {ROUNDS}\n")


def admit(cluster, run, name):
    """Let an institution in, as docs/kubernetes.md says; start its pods and return its trainer."""
    fingerprint = cluster.at_desk("join-request", name, "--dir", name).split()[-1]
    cluster.at_desk("certs", "trainer", f"{name}-tls", "--host", "trainer", "--host", "localhost")
    exchange = cluster.volume(*OPERATOR, "run-tmp")
    shutil.copy(cluster.desk / name / f"{name}.request.json", exchange)
    said = run.run(
        *("ipfl", "admit", f"/tmp/{name}.request.json", "--market", "/etc/market/market.toml"),
        *("--superlink", "market", "--certificates", "/run/ipfl", "--fleet", f"{FLEET}:9092"),
        *("--kit", f"/tmp/{name}.kit.json", "--fingerprint", fingerprint),
    )
    shutil.copy(exchange / f"{name}.kit.json", cluster.desk)
    cluster.at_desk("join", f"{name}.kit.json", "--dir", name, "--operator", said.split()[-1])
    files = ("node.key", "kit.json", "ca.pem", "allowed")
    cluster.keep_secret(name, "supernode", name, files)
    for side in ("trainer", "supernode"):
        files = ("ca.pem", f"{side}.pem", f"{side}.key")
        cluster.keep_secret(name, f"{side}-tls", f"{name}-tls", files)
    trainer = cluster.start(name, "trainer")["trainer"]
    supernode = cluster.start(name, "supernode")["supernode"]
    cluster.wait(f"{name}: the trainer serves", lambda: trainer.healthy("readinessProbe"))
    cluster.wait(f"{name}: the SuperNode lives", lambda: supernode.healthy("livenessProbe"))
    cluster.wait(f"{name}: it is connected", lambda: supernode.healthy("readinessProbe"))
    return trainer


def start_console(cluster):
    """Make the console's tokens, as docs/kubernetes.md says; start its pod and return it."""
    tokens = cluster.desk / "console"
    tokens.mkdir()
    (tokens / "operator-token").write_text("0123456789abcdef" * 4)
    cluster.at_desk("console", "token", INSTITUTIONS[0], "--tokens", "console/tokens")
    cluster.keep_secret(OPERATOR[0], "console", "console", ("operator-token", "tokens"))
    console = cluster.start(OPERATOR[0], "console")["console"]
    cluster.wait("the console lives", lambda: console.healthy("livenessProbe"))
    cluster.wait("the console reads the ledger", lambda: console.healthy("readinessProbe"))
    return console


def play(folder):
    """Play the guide from nothing to a market's end; the operator's pod is ended in the middle."""
    cluster = Cluster(folder)
    hosts = [part for host in (FLEET, "localhost", "127.0.0.1") for part in ("--host", host)]
    cluster.at_desk("certs", "operator", "certificates", *hosts)
    cluster.keep_secret(OPERATOR[0], "superlink", "certificates", SUPERLINK_FILES)
    operator = cluster.start(*OPERATOR)
    superlink, run = operator["superlink"], operator["run"]
    cluster.wait("the SuperLink answers", lambda: superlink.healthy("readinessProbe"))
    trainers = [admit(cluster, run, name) for name in INSTITUTIONS]
    initial = ("python", "-m", "ipfl_flower.trainer.initial", "--task", "digits")
    trainers[0].run(*initial, "--out", "/tmp/initial.npz")
    made = cluster.volume("alder", "trainer", "tmp") / "initial.npz"
    shutil.copy(made, cluster.volume(OPERATOR[0], "", "market-operator-0") / "initial.part")
    run.run("mv", "/srv/market/initial.part", "/srv/market/initial.npz")
    console = start_console(cluster)
    cluster.wait("round 1 is settled", lambda: "round 1 of" in run.log.read_text())
    for each in operator.values():
        each.end()
    cluster.wait("the market has ended", lambda: "the market has ended" in run.log.read_text())
    print(run.run("ipfl", "ledger", "verify", "/srv/market/ledger.db"), flush=True)
    print("the console says", console.run("python", "-c", ASK_CONSOLE), flush=True)
    for each in cluster.started:
        each.end()


if __name__ == "__main__":
    play(Path(sys.argv[1]))
