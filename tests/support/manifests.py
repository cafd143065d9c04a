"""The Kubernetes manifests as kubectl renders them, and what must hold between their objects."""

import json
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]
KUBERNETES = ROOT / "deploy" / "kubernetes"
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
    claims: frozenset = frozenset()

    @property
    def containers(self):
        return self.spec.get("initContainers", []) + self.spec["containers"]

    def volumes(self):
        """Return its volumes by name; a claim of its own is a PersistentVolumeClaim like others."""
        own = {name: {"persistentVolumeClaim": {"claimName": name}} for name in self.claims}
        return own | {volume["name"]: volume for volume in self.spec.get("volumes", [])}


def workloads(objects):
    found = []
    for item in objects:
        meta = item["metadata"]
        if item["kind"] == "Pod":
            found.append(Workload(meta["name"], space(item), meta.get("labels", {}), item["spec"]))
        elif "template" in item.get("spec", {}):
            template = item["spec"]["template"]
            claims = [
                each["metadata"]["name"] for each in item["spec"].get("volumeClaimTemplates", [])
            ]
            found.append(
                Workload(
                    meta["name"],
                    space(item),
                    template["metadata"]["labels"],
                    template["spec"],
                    frozenset(claims),
                )
            )
    return found


def space(item):
    return item["metadata"].get("namespace", "default")


def kind(objects, name):
    return [item for item in objects if item["kind"] == name]


def matches(selector, labels):
    """Tell whether a label selector takes labels; the manifests use matchLabels alone."""
    assert selector.keys() <= {"matchLabels"}, selector
    return selector.get("matchLabels", {}).items() <= labels.items()


# Every check returns what is wrong, a line each.


def wrong_namespaces(objects):
    declared = {item["metadata"]["name"] for item in kind(objects, "Namespace")}
    return [
        f"{item['kind']} {item['metadata']['name']} is in namespace {space(item)}, which isn't made"
        for item in objects
        if item["kind"] != "Namespace" and space(item) not in declared
    ]


def wrong_selectors(objects):
    """Check that what selects pods selects one workload, and its port is there."""
    found = []
    for item in objects:
        selector, spec = _selector(item), item.get("spec", {})
        if selector is None:
            continue
        what = f"{item['kind']} {item['metadata']['name']}"
        taken = [
            pod
            for pod in workloads(objects)
            if pod.namespace == space(item) and matches(selector, pod.labels)
        ]
        if len(taken) != 1 and (selector or not taken):
            found.append(f"{what} selects {len(taken)} workloads in {space(item)}")
        elif "template" in spec and taken[0].name != item["metadata"]["name"]:
            found.append(f"{what} selects the pods of {taken[0].name}")
        elif item["kind"] == "Service":
            ports = [port for each in taken[0].containers for port in each.get("ports", [])]
            known = {port["containerPort"] for port in ports} | {port.get("name") for port in ports}
            wanted = {port.get("targetPort", port["port"]) for port in spec["ports"]}
            found += [f"{what}: no container has port {port}" for port in wanted - known]
    services = [item["metadata"]["name"] for item in kind(objects, "Service")]
    return found + [
        f"StatefulSet {item['metadata']['name']}: no Service {item['spec']['serviceName']}"
        for item in kind(objects, "StatefulSet")
        if item["spec"]["serviceName"] not in services
    ]


def _selector(item):
    spec = item.get("spec", {})
    if item["kind"] == "Service":
        return {"matchLabels": spec["selector"]}
    if item["kind"] == "NetworkPolicy":
        return spec["podSelector"]
    return None if item["kind"] == "PersistentVolumeClaim" else spec.get("selector")


def wrong_images(objects, version):
    found = []
    for pod in workloads(objects):
        for container in pod.containers:
            image = container["image"]
            tag = image.rpartition("/")[2].partition(":")[2]
            if tag != version:
                found.append(f"{pod.name}: {image} should have the tag {version}")
    return found


def wrong_references(objects, documented):
    """Check that every volume, key, claim and environment that a pod names is there.

    `documented` has the Secrets that the guide makes: their keys by name.
    """
    found = []
    for pod in workloads(objects):
        maps = {
            item["metadata"]["name"]: set(item["data"])
            for item in kind(objects, "ConfigMap")
            if space(item) == pod.namespace
        }
        claims = pod.claims | {
            item["metadata"]["name"]
            for item in kind(objects, "PersistentVolumeClaim")
            if space(item) == pod.namespace
        }
        volumes, files = pod.volumes(), {}
        for name, volume in volumes.items():
            where = f"{pod.namespace}/{pod.name}: volume {name}"
            if "persistentVolumeClaim" in volume:
                if volume["persistentVolumeClaim"]["claimName"] not in claims:
                    found.append(f"{where}: no such claim")
            elif "secret" in volume or "configMap" in volume:
                secret = "secret" in volume
                source = volume["secret"] if secret else volume["configMap"]
                known = documented if secret else maps
                wanted = source["secretName"] if secret else source["name"]
                keys = known.get(wanted)
                if keys is None:
                    found.append(f"{where}: no {'Secret' if secret else 'ConfigMap'} {wanted}")
                    continue
                items = source.get("items", [{"key": key, "path": key} for key in keys])
                found += [f"{where}: no key {i['key']}" for i in items if i["key"] not in keys]
                files[name] = {item["path"] for item in items}
        for container in pod.containers:
            found += _wrong_in_container(pod, container, volumes, files, documented)
    return found


def _wrong_in_container(pod, container, volumes, files, documented):
    where = f"{pod.namespace}/{pod.name}/{container['name']}"
    found = [
        f"{where}: no Secret {source['secretRef']['name']}"
        for source in container.get("envFrom", [])
        if source["secretRef"]["name"] not in documented
    ]
    there = {}
    for mount in container.get("volumeMounts", []):
        name = mount["name"]
        if name not in volumes:
            found.append(f"{where}: no volume {name}")
        elif "subPath" in mount:
            if mount["subPath"] not in files.get(name, {mount["subPath"]}):
                found.append(f"{where}: no file {mount['subPath']} in volume {name}")
        else:
            there[mount["mountPath"]] = files.get(name)
    probes = [container.get(f"{probe}Probe", {}) for probe in ("startup", "readiness", "liveness")]
    commands = [
        container["command"],
        *[probe.get("exec", {}).get("command", []) for probe in probes],
    ]
    paths = re.findall(r"(?<![\w./])/(?:etc|run|srv|var|data)/?[\w./-]*", repr(commands))
    return found + [
        f"{where}: nothing is mounted at {path}"
        for path in paths
        if not any(_holds(folder, known, path) for folder, known in there.items())
    ]


def _holds(folder, known, path):
    inside = Path(path).is_relative_to(folder)
    # Nothing is known of what lies on a volume.
    return inside and (
        known is None or path == folder or str(Path(path).relative_to(folder)) in known
    )


def wrong_data(objects):
    """Check that the trainer reads the data, and but for who fills it nobody else has it."""
    found = []
    for pod in workloads(objects):
        names = [
            name
            for name, volume in pod.volumes().items()
            if volume.get("persistentVolumeClaim", {}).get("claimName") == "data"
        ]
        if names and pod.name not in ("trainer", "data-loader"):
            found.append(f"{pod.name} mounts the data")
        mounts = [
            mount
            for container in pod.containers
            for mount in container.get("volumeMounts", [])
            if mount["name"] in names
        ]
        if pod.name == "trainer" and not mounts:
            found.append("the trainer has no data")
        if pod.name == "trainer" and not all(mount.get("readOnly") for mount in mounts):
            found.append("the trainer can write to the data")
    return found


def wrong_operations(objects):
    """Check that every container has limits and probes, and what has one copy is never two."""
    found = []
    for pod in workloads(objects):
        for container in pod.containers:
            where = f"{pod.name}/{container['name']}"
            resources = container.get("resources", {})
            found += [
                f"{where} has no {bound}"
                for bound in ("requests", "limits")
                if not {"cpu", "memory"} <= resources.get(bound, {}).keys()
            ]
            # These have no port: when they fail, they end.
            if container["name"] in ("executor", "run", "loader"):
                continue
            found += [
                f"{where} has no {probe}"
                for probe in ("startupProbe", "readinessProbe", "livenessProbe")
                if probe not in container
            ]
    for item in objects:
        spec, what = item.get("spec", {}), f"{item['kind']} {item['metadata']['name']}"
        if "template" in spec and spec.get("replicas") != 1:
            found.append(f"{what} has {spec.get('replicas')} replicas")
        if item["kind"] == "Deployment" and spec.get("strategy") != {"type": "Recreate"}:
            found.append(f"{what} starts a second pod before the first has ended")
    return found


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
