"""The Kubernetes manifests, rendered by the real kubectl and checked without a cluster."""

import copy
import tomllib

import kubernetes_validate
import pytest
from support.manifest_checks import (
    wrong_data,
    wrong_images,
    wrong_ledger,
    wrong_namespaces,
    wrong_operations,
    wrong_references,
    wrong_selectors,
)
from support.manifests import (
    GUIDE,
    OVERLAYS,
    ROOT,
    container,
    documented_secrets,
    item,
    kind,
    pod,
    workloads,
)
from support.pod_security import unlabelled, violations
from support.reachability import End, ends, may_connect

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
SECRETS = documented_secrets(GUIDE)
# The oldest Kubernetes whose schemas are asked, and the newest that the validator knows.
VERSIONS = ("1.29", "1.37")
FLEET, CONTROL, TRAINER, DNS, POSTGRESQL, CONSOLE = 9092, 8000, 9095, 53, 5432, 8080
OUTSIDE = End("a stranger", address="198.51.100.7")
SUPERLINK = End("the SuperLink", address="203.0.113.10")
RESOLVER = End("DNS", "kube-system", {"k8s-app": "kube-dns"})
CONTROLLER = End("the ingress controller", "ingress-nginx", {"app": "any"})
NEIGHBOUR = End("a neighbour", "elsewhere", {"app.kubernetes.io/name": "ipfl-supernode"})


@pytest.fixture(params=[*OVERLAYS, "data-loader"])
def objects(request, rendered):
    return rendered[request.param]


def invalid(objects):
    """Return what the API's own schemas don't take."""
    found = []
    for version in VERSIONS:
        for each in objects:
            try:
                kubernetes_validate.validate(each, version, strict=True)
            except kubernetes_validate.ValidationError as error:
                where = "/".join(str(part) for part in error.path)
                found.append(f"{each['kind']} {where}: {error.message}")
    return found


def insecure(objects):
    found = unlabelled(kind(objects, "Namespace"))
    return found + [f"{p.name}: {line}" for p in workloads(objects) for line in violations(p.spec)]


def references(objects):
    return wrong_references(objects, SECRETS)


def images(objects):
    return wrong_images(objects, PROJECT["version"])


def connections(objects):
    """Return every connection that the policies let be opened, of all that one might think of."""
    pods = ends(objects)
    numbers = (FLEET, CONTROL, TRAINER, DNS, POSTGRESQL, CONSOLE, 22, 443, 9094)
    ports = [(port, "TCP") for port in numbers]
    return {
        (source.name, target.name, *port)
        for source in [*pods, OUTSIDE, SUPERLINK, NEIGHBOUR, RESOLVER, CONTROLLER]
        for target in [*pods, OUTSIDE, SUPERLINK, RESOLVER]
        for port in [*ports, (DNS, "UDP")]
        if source in pods or target in pods
        if source != target
        if may_connect(objects, source, target, *port)
    }


def dns(name):
    return {(name, "DNS", DNS, "TCP"), (name, "DNS", DNS, "UDP")}


def of_institution(name, superlink):
    trainer, supernode = f"{name}/trainer", f"{name}/supernode"
    return {
        (supernode, trainer, TRAINER, "TCP"),
        (supernode, superlink, FLEET, "TCP"),
        *dns(supernode),
    }


def of_operator(namespace):
    """Everybody reaches the fleet port, and nobody another; the operator calls nobody.

    The console is reached by the ingress controller alone.
    """
    operator, console = f"{namespace}/operator", f"{namespace}/console"
    strangers = [OUTSIDE, SUPERLINK, NEIGHBOUR, RESOLVER, CONTROLLER]
    fleet = {(end.name, operator, FLEET, "TCP") for end in strangers}
    return fleet | {(CONTROLLER.name, console, CONSOLE, "TCP")}


def allowed(overlay):
    if overlay == "demo":
        names = ("alder", "birch", "cedar")
        found = [of_institution(name, "harbour/operator") for name in names]
        return set.union(of_operator("harbour"), *found)
    if overlay == "operator":
        return of_operator("ipfl-market")
    if overlay == "operator-postgresql":
        found = of_operator("ipfl-market")
        for me in ("ipfl-market/operator", "ipfl-market/console"):
            found |= {(me, end.name, POSTGRESQL, "TCP") for end in (OUTSIDE, SUPERLINK, RESOLVER)}
            found |= dns(me)
        return found
    return of_institution("alder", SUPERLINK.name)


def wrong_connections(objects, overlay="demo"):
    return sorted(map(str, connections(objects) ^ allowed(overlay)))


CHECKS = (
    *(invalid, insecure, references, images),
    *(wrong_namespaces, wrong_selectors, wrong_data, wrong_ledger, wrong_operations),
)


@pytest.mark.parametrize("check", CHECKS)
def test_an_overlay_is_right(check, objects):
    assert check(objects) == []


@pytest.mark.parametrize("overlay", [*OVERLAYS, "data-loader"])
def test_policies_let_be_opened_what_a_market_needs_and_nothing_else(overlay, rendered):
    assert wrong_connections(rendered[overlay], overlay) == []


def test_the_demo_is_an_operator_and_institutions_in_namespaces_of_their_own(rendered):
    found = sorted((pod.namespace, pod.name) for pod in workloads(rendered["demo"]))
    institutions = [(n, p) for n in ("alder", "birch", "cedar") for p in ("supernode", "trainer")]
    assert found == [*institutions, ("harbour", "console"), ("harbour", "operator")]


def test_the_gpu_is_the_trainers_alone(rendered):
    for overlay, wanted in (("institution", []), ("institution-gpu", ["trainer"])):
        pods = workloads(rendered[overlay])
        limits = {(p.name, k) for p in pods for c in p.containers for k in c["resources"]["limits"]}
        assert [name for name, what in sorted(limits) if what == "nvidia.com/gpu"] == wanted


# A manifest made wrong is found, and what is said names it.


def policy(objects, name):
    return item(objects, "NetworkPolicy", name)["spec"]


def volume(objects, name, volume):
    return pod(objects, name).volumes()[volume]


MUTATIONS = {
    "a misspelt field": (
        invalid,
        lambda o: pod(o).spec.update(serviceAcountName="x"),
        "'serviceAcountName' was unexpected",
    ),
    "text where a number belongs": (
        invalid,
        lambda o: container(o)["ports"][0].update(containerPort="9095"),
        "is not of type 'integer'",
    ),
    "an image without a tag": (
        images,
        lambda o: container(o).update(image="registry.example:5000/ipfl-trainer"),
        "ipfl-trainer should have the tag",
    ),
    "the latest image": (
        images,
        lambda o: container(o, "run", "operator").update(image="ipfl-server:latest"),
        "ipfl-server:latest should",
    ),
    "root": (insecure, lambda o: pod(o).spec["securityContext"].update(runAsUser=0), "it is root"),
    "maybe root": (
        insecure,
        lambda o: pod(o).spec["securityContext"].pop("runAsNonRoot"),
        "may become root",
    ),
    "no seccomp": (
        insecure,
        lambda o: pod(o, "operator").spec["securityContext"].pop("seccompProfile"),
        "operator: superlink: it has no seccomp profile",
    ),
    "a capability": (
        insecure,
        lambda o: container(o)["securityContext"]["capabilities"].update(add=["SYS_PTRACE"]),
        "trainer: trainer: it has capabilities",
    ),
    "privileges gained": (
        insecure,
        lambda o: container(o)["securityContext"].pop("allowPrivilegeEscalation"),
        "may gain privileges",
    ),
    "a root file system to write in": (
        insecure,
        lambda o: container(o, "supernode")["securityContext"].pop("readOnlyRootFilesystem"),
        "supernode: supernode: its root file system",
    ),
    "a folder of the host": (
        insecure,
        lambda o: pod(o).spec["volumes"].append({"name": "x", "hostPath": {"path": "/"}}),
        "volume x is a hostPath",
    ),
    "a token": (
        insecure,
        lambda o: pod(o, "supernode").spec.pop("automountServiceAccountToken"),
        "supernode: a service account's token",
    ),
    "the host's network": (
        insecure,
        lambda o: pod(o).spec.update(hostNetwork=True),
        "hostNetwork is set",
    ),
    "a port of the host": (
        insecure,
        lambda o: container(o)["ports"][0].update(hostPort=9095),
        "a port of the host",
    ),
    "a namespace that enforces nothing": (
        insecure,
        lambda o: item(o, "Namespace", "birch")["metadata"]["labels"].update(
            {"pod-security.kubernetes.io/enforce": "baseline"}
        ),
        "namespace birch: enforce",
    ),
    "no such ConfigMap": (
        references,
        lambda o: volume(o, "trainer", "institution")["configMap"].update(name="x"),
        "no ConfigMap x",
    ),
    "no such Secret": (
        references,
        lambda o: volume(o, "trainer", "tls")["secret"].update(secretName="x"),
        "no Secret x",
    ),
    "no such key": (
        references,
        lambda o: volume(o, "supernode", "supernode")["secret"]["items"][0].update(key="x"),
        "no key x",
    ),
    "no such claim": (
        references,
        lambda o: volume(o, "trainer", "state")["persistentVolumeClaim"].update(claimName="x"),
        "volume state: no such claim",
    ),
    "no such volume": (
        references,
        lambda o: container(o)["volumeMounts"][0].update(name="x"),
        "no volume x",
    ),
    "a file that is not in the Secret": (
        references,
        lambda o: container(o)["command"].__setitem__(4, "--certificate=/run/ipfl/tls/x.pem"),
        "nothing is mounted at /run/ipfl/tls/x.pem",
    ),
    "a folder that is not mounted": (
        references,
        lambda o: container(o, "executor", "operator")["volumeMounts"].pop(1),
        "operator/executor: nothing is mounted at /run/ipfl/",
    ),
    "an object in a namespace that nobody makes": (
        wrong_namespaces,
        lambda o: item(o, "Service", "superlink")["metadata"].update(namespace="x"),
        "Service superlink is in namespace x",
    ),
    "a Service of no pod": (
        wrong_selectors,
        lambda o: item(o, "Service", "superlink")["spec"].update(selector={"app": "x"}),
        "Service superlink selects 0",
    ),
    "a Service of a port that is closed": (
        wrong_selectors,
        lambda o: item(o, "Service", "trainer")["spec"]["ports"][0].update(targetPort=1),
        "Service trainer: no container has port",
    ),
    "a policy of no pod": (
        wrong_selectors,
        lambda o: policy(o, "trainer-from-supernode").update(
            podSelector={"matchLabels": {"app.kubernetes.io/name": "trainer"}}
        ),
        "trainer-from-supernode selects 0",
    ),
    "a budget of no pod": (
        wrong_selectors,
        lambda o: item(o, "PodDisruptionBudget", "trainer")["spec"]["selector"].update(
            matchLabels={"app": "x"}
        ),
        "PodDisruptionBudget trainer selects 0",
    ),
    "a StatefulSet without its Service": (
        wrong_selectors,
        lambda o: item(o, "StatefulSet", "operator")["spec"].update(serviceName="x"),
        "no Service x",
    ),
    "data that can be written": (
        wrong_data,
        lambda o: [mount.pop("readOnly", None) for mount in container(o)["volumeMounts"]],
        "trainer can write",
    ),
    "data at the SuperNode": (
        wrong_data,
        lambda o: pod(o, "supernode").spec["volumes"].append(volume(o, "trainer", "data")),
        "supernode mounts the data",
    ),
    "a console that can write the ledger": (
        wrong_ledger,
        lambda o: container(o, "console")["volumeMounts"][0].pop("readOnly"),
        "console can write to market",
    ),
    "a console away from the ledger": (
        wrong_ledger,
        lambda o: pod(o, "console").spec.pop("affinity"),
        "may be scheduled to where the operator's volume is not",
    ),
    "a container without limits": (
        wrong_operations,
        lambda o: container(o)["resources"].pop("limits"),
        "trainer/trainer has no limits",
    ),
    "a container that is not probed": (
        wrong_operations,
        lambda o: container(o).pop("readinessProbe"),
        "no readinessProbe",
    ),
    "two trainers": (
        wrong_operations,
        lambda o: item(o, "Deployment", "trainer")["spec"].update(replicas=2),
        "Deployment trainer has 2 replicas",
    ),
    "two trainers for a moment": (
        wrong_operations,
        lambda o: item(o, "Deployment", "trainer")["spec"].pop("strategy"),
        "starts a second pod",
    ),
    "a trainer that calls out": (
        wrong_connections,
        lambda o: policy(o, "trainer-from-supernode").update(egress=[{}]),
        "('alder/trainer', 'a stranger', 443, 'TCP')",
    ),
    "a trainer for SuperNodes of every namespace": (
        wrong_connections,
        lambda o: policy(o, "trainer-from-supernode")["ingress"][0]["from"][0].update(
            namespaceSelector={}
        ),
        "('a neighbour', 'alder/trainer', 9095, 'TCP')",
    ),
    "no denial where no policy is": (
        wrong_connections,
        lambda o: [
            o.remove(item(o, "NetworkPolicy", name))
            for name in ("deny-all", "trainer-from-supernode")
        ],
        "('a stranger', 'alder/trainer', 22, 'TCP')",
    ),
    "a SuperNode that reaches everything": (
        wrong_connections,
        lambda o: policy(o, "supernode-to-superlink")["egress"][0].pop("to"),
        "('alder/supernode', 'a stranger', 9092, 'TCP')",
    ),
    "the control port open": (
        wrong_connections,
        lambda o: policy(o, "fleet-from-anywhere")["ingress"][0]["ports"].append({"port": CONTROL}),
        "('a stranger', 'harbour/operator', 8000, 'TCP')",
    ),
    "a console for everybody": (
        wrong_connections,
        lambda o: policy(o, "console-from-ingress-controller")["ingress"][0].pop("from"),
        "('a stranger', 'harbour/console', 8080, 'TCP')",
    ),
    "a console that calls out": (
        wrong_connections,
        lambda o: policy(o, "console-from-ingress-controller").update(egress=[{}]),
        "('harbour/console', 'a stranger', 443, 'TCP')",
    ),
    "the fleet port closed": (
        wrong_connections,
        lambda o: policy(o, "fleet-from-anywhere").pop("ingress"),
        "('alder/supernode', 'harbour/operator', 9092, 'TCP')",
    ),
}


@pytest.mark.parametrize("name", MUTATIONS)
def test_a_manifest_made_wrong_is_found(name, rendered):
    check, mutate, said = MUTATIONS[name]
    objects = copy.deepcopy(rendered["demo"])
    mutate(objects)
    assert said in "\n".join(check(objects))
