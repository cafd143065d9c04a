"""Kubernetes' Pod Security Standard "restricted", as checks on a pod's spec.

Of https://kubernetes.io/docs/concepts/security/pod-security-standards/, with "baseline", which it
includes; and what this project asks for on top: no token, and a root file system that is read-only.
"""

_VOLUMES = {
    *("configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim"),
    *("projected", "secret"),
}
_LABEL = "pod-security.kubernetes.io/"


def unlabelled(namespaces):
    """Return the namespaces that don't enforce the standard."""
    return [
        f"namespace {item['metadata']['name']}: {mode} is not restricted"
        for item in namespaces
        for mode in ("enforce", "audit", "warn")
        if item["metadata"].get("labels", {}).get(_LABEL + mode) != "restricted"
    ]


def violations(spec):
    """Return what a pod's spec violates, a line each."""
    found = [f"{name} is set" for name in ("hostNetwork", "hostPID", "hostIPC") if spec.get(name)]
    if spec.get("automountServiceAccountToken") is not False:
        found.append("a service account's token is mounted")
    for volume in spec.get("volumes", []):
        kinds = volume.keys() - {"name"}
        if not kinds <= _VOLUMES:
            found.append(f"volume {volume['name']} is a {', '.join(sorted(kinds))}")
    pod = spec.get("securityContext", {})
    if pod.get("sysctls"):
        found.append("sysctls are set")
    for container in spec.get("initContainers", []) + spec["containers"]:
        own = container.get("securityContext", {})
        name = container["name"]
        found += [f"{name}: {line}" for line in _of_container(own, {**pod, **own}, container)]
    return found


def _of_container(own, both, container):
    capabilities = own.get("capabilities", {})
    profiles = ("RuntimeDefault", "Localhost")
    rules = {
        "it may become root": both.get("runAsNonRoot") is not True,
        "it is root": both.get("runAsUser") in (None, 0),
        "it has no seccomp profile": both.get("seccompProfile", {}).get("type") not in profiles,
        "it may gain privileges": own.get("allowPrivilegeEscalation") is not False,
        "it is privileged": bool(own.get("privileged")),
        "it has capabilities": capabilities.get("drop") != ["ALL"] or bool(capabilities.get("add")),
        "its root file system can be written": own.get("readOnlyRootFilesystem") is not True,
        "it sees the host's processes": own.get("procMount", "Default") != "Default",
        "it has options of SELinux or AppArmor": "seLinuxOptions" in both
        or "appArmorProfile" in both,
        "it has a port of the host": any("hostPort" in port for port in container.get("ports", [])),
        "it has hooks or probes that name a host": "'host':" in repr(container),
    }
    return [line for line, broken in rules.items() if broken]
