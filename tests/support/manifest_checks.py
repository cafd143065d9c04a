"""What must hold between the Kubernetes objects of an overlay."""

import re
from pathlib import Path

from support.manifests import kind, matches, space, workloads

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
        claims = {
            item["metadata"]["name"]
            for item in kind(objects, "PersistentVolumeClaim")
            if space(item) == pod.namespace
        }
        # A StatefulSet's claims are there for others, too, by the names that Kubernetes gives them.
        for each in workloads(objects):
            claims.update(each.claims.values() if each.namespace == pod.namespace else ())
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


def wrong_ledger(objects):
    """Check that the console can't write where the ledger is, and is scheduled to where that is."""
    found = []
    for pod in [pod for pod in workloads(objects) if pod.name == "console"]:
        volumes = [
            name for name, volume in pod.volumes().items() if "persistentVolumeClaim" in volume
        ]
        found += [
            f"console can write to {mount['name']}"
            for container in pod.containers
            for mount in container["volumeMounts"]
            if mount["name"] in volumes and not mount.get("readOnly")
        ]
        terms = (
            pod.spec.get("affinity", {})
            .get("podAffinity", {})
            .get("requiredDuringSchedulingIgnoredDuringExecution", [])
        )
        together = [
            term["topologyKey"] == "kubernetes.io/hostname"
            and matches(term["labelSelector"], other.labels)
            for term in terms
            for other in workloads(objects)
            if other.name == "operator"
        ]
        if volumes and not any(together):
            found.append("console may be scheduled to where the operator's volume is not")
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
