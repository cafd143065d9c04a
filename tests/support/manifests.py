"""The Kubernetes manifests as kubectl renders them, and what must hold between their objects."""

import json
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]
KUBERNETES = ROOT / "deploy" / "kubernetes"
GUIDE = (ROOT / "docs" / "kubernetes.md").read_text()
OVERLAYS = ("operator", "operator-postgresql", "institution", "institution-gpu", "demo")
# Before, kubectl's Kustomize knew no components, or folders among resources.
KUBECTL_MIN = (1, 27)
COMMAND_DEADLINE_S = 60.0


def find_kubectl():
    """Return kubectl that can render the manifests, or None."""
    found = shutil.which("kubectl", path=str(Path(sys.executable).parent)) or shutil.which(
        "kubectl"
    )
    if found is None:
        return None
    version = json.loads(_run(found, "version", "--client", "--output=json"))["clientVersion"]
    number = (int(version["major"]), int(re.match(r"\d+", version["minor"])[0]))
    return found if number >= KUBECTL_MIN else None


def render(kubectl, overlay):
    """Return an overlay's objects."""
    printed = _run(kubectl, "kustomize", str(KUBERNETES / "overlays" / overlay))
    return list(yaml.safe_load_all(printed))


def _run(*command):
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=COMMAND_DEADLINE_S
    )
    assert done.returncode == 0, f"{shlex.join(command)}: {done.stderr}"
    return done.stdout


@dataclass
class Workload:
    """A pod, or what makes pods."""

    name: str
    namespace: str
    labels: dict
    spec: dict
    # Of claims of its own: volume to claim.
    claims: dict = field(default_factory=dict)

    @property
    def containers(self):
        return self.spec.get("initContainers", []) + self.spec["containers"]

    def volumes(self):
        """Return its volumes by name; a claim of its own is a PersistentVolumeClaim like others."""
        own = {
            name: {"persistentVolumeClaim": {"claimName": claim}}
            for name, claim in self.claims.items()
        }
        return own | {volume["name"]: volume for volume in self.spec.get("volumes", [])}


def workloads(objects):
    found = []
    for item in objects:
        meta = item["metadata"]
        if item["kind"] == "Pod":
            found.append(Workload(meta["name"], space(item), meta.get("labels", {}), item["spec"]))
        elif "template" in item.get("spec", {}):
            template = item["spec"]["template"]
            names = [
                each["metadata"]["name"] for each in item["spec"].get("volumeClaimTemplates", [])
            ]
            claims = {name: f"{name}-{meta['name']}-0" for name in names}
            found.append(
                Workload(
                    meta["name"],
                    space(item),
                    template["metadata"]["labels"],
                    template["spec"],
                    claims,
                )
            )
    return found


def space(item):
    return item["metadata"].get("namespace", "default")


def kind(objects, name):
    return [item for item in objects if item["kind"] == name]


def pod(objects, name="trainer"):
    return next(each for each in workloads(objects) if each.name == name)


def item(objects, wanted, name):
    return next(i for i in kind(objects, wanted) if i["metadata"]["name"] == name)


def container(objects, name="trainer", of=None):
    """Give a container by its name, and its pod's where that is another."""
    return next(each for each in pod(objects, of or name).containers if each["name"] == name)


def matches(selector, labels):
    """Tell whether a label selector takes labels; the manifests use matchLabels alone."""
    assert selector.keys() <= {"matchLabels"}, selector
    return selector.get("matchLabels", {}).items() <= labels.items()


def documented_secrets(text):
    """Return the Secrets that `kubectl create secret generic` of a guide makes: keys by name."""
    found = {}
    for command in re.findall(r"kubectl create secret generic ((?:[^\n\\]|\\\n)*)", text):
        name, *options = shlex.split(command)
        keys = found.setdefault(name, set())
        for option in options:
            given = re.fullmatch(r"--from-(file|literal)=(?:([^=]+)=)?(.*)", option)
            if given:
                keys.add(given[2] or Path(given[3]).name)
    return found
