"""The Kubernetes manifests, rendered by the real kubectl and checked without a cluster."""

import copy
import os
import re
import shlex
import signal
import subprocess
import time
import tomllib
from pathlib import Path

import click
import kubernetes_validate
import pytest
import typer
import yaml
from flwr.supercore.cli.flower_superexec import _parse_args as superexec_parser
from support.manifests import (
    KUBERNETES,
    OVERLAYS,
    ROOT,
    documented_secrets,
    find_kubectl,
    kind,
    render,
    space,
    workloads,
    wrong_data,
    wrong_images,
    wrong_namespaces,
    wrong_operations,
    wrong_references,
    wrong_selectors,
)
from support.pod_security import unlabelled, violations
from support.reachability import End, ends, may_connect

from ipfl_flower.cli.main import cli
from ipfl_flower.settings import Settings
from ipfl_flower.trainer.institution import _File

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
GUIDE = (ROOT / "docs" / "kubernetes.md").read_text()
SECRETS = documented_secrets(GUIDE)
# The oldest Kubernetes whose schemas are asked, and the newest that the validator knows.
VERSIONS = ("1.29", "1.37")
DEADLINE_S = 20.0
FLEET, CONTROL, TRAINER, DNS, POSTGRESQL = 9092, 8000, 9095, 53, 5432
OUTSIDE = End("a stranger", address="198.51.100.7")
SUPERLINK = End("the SuperLink", address="203.0.113.10")
RESOLVER = End("DNS", "kube-system", {"k8s-app": "kube-dns"})
NEIGHBOUR = End("a neighbour", "elsewhere", {"app.kubernetes.io/name": "ipfl-supernode"})


@pytest.fixture(scope="session")
def rendered():
    """Give every overlay's objects, and the pod that fills an institution's data volume."""
    kubectl = find_kubectl()
    if kubectl is None:
        pytest.skip("no kubectl of 1.27 or newer here: make kubectl")
    found = {overlay: render(kubectl, overlay) for overlay in OVERLAYS}
    loader = yaml.safe_load((KUBERNETES / "data-loader.yaml").read_text())
    loader["metadata"]["namespace"] = "alder"
    return found | {"data-loader": [*found["institution"], loader]}


@pytest.fixture(params=[*OVERLAYS, "data-loader"])
def objects(request, rendered):
    return rendered[request.param]


def invalid(objects):
    """Return what the API's own schemas don't take."""
    found = []
    for version in VERSIONS:
        for item in objects:
            try:
                kubernetes_validate.validate(item, version, strict=True)
            except kubernetes_validate.ValidationError as error:
                where = "/".join(str(part) for part in error.path)
                found.append(f"{item['kind']} {where}: {error.message}")
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
    ports = [(port, "TCP") for port in (FLEET, CONTROL, TRAINER, DNS, POSTGRESQL, 22, 443, 9094)]
    return {
        (source.name, target.name, *port)
        for source in [*pods, OUTSIDE, SUPERLINK, NEIGHBOUR, RESOLVER]
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
    """Everybody reaches the fleet port, and nobody another; the operator calls nobody."""
    operator = f"{namespace}/operator"
    strangers = [OUTSIDE, SUPERLINK, NEIGHBOUR, RESOLVER]
    return {(end.name, operator, FLEET, "TCP") for end in strangers}


def allowed(overlay):
    if overlay == "demo":
        names = ("alder", "birch", "cedar")
        found = [of_institution(name, "harbour/operator") for name in names]
        return set.union(of_operator("harbour"), *found)
    if overlay == "operator":
        return of_operator("ipfl-market")
    if overlay == "operator-postgresql":
        me = "ipfl-market/operator"
        database = {(me, end.name, POSTGRESQL, "TCP") for end in (OUTSIDE, SUPERLINK, RESOLVER)}
        return of_operator("ipfl-market") | database | dns(me)
    return of_institution("alder", SUPERLINK.name)


def wrong_connections(objects, overlay="demo"):
    return sorted(map(str, connections(objects) ^ allowed(overlay)))


CHECKS = (
    *(invalid, insecure, references, images),
    *(wrong_namespaces, wrong_selectors, wrong_data, wrong_operations),
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
    assert found == [*institutions, ("harbour", "operator")]


def test_the_gpu_is_the_trainers_alone(rendered):
    for overlay, wanted in (("institution", []), ("institution-gpu", ["trainer"])):
        pods = workloads(rendered[overlay])
        limits = {(p.name, k) for p in pods for c in p.containers for k in c["resources"]["limits"]}
        assert [name for name, what in sorted(limits) if what == "nvidia.com/gpu"] == wanted


# A manifest made wrong is found, and what is said names it.


def pod(objects, name="trainer"):
    return next(pod for pod in workloads(objects) if pod.name == name)


def item(objects, wanted, name):
    return next(i for i in kind(objects, wanted) if i["metadata"]["name"] == name)


def container(objects, name="trainer", of=None):
    """Give a container by its name, and its pod's where that is another."""
    return next(each for each in pod(objects, of or name).containers if each["name"] == name)


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


# What the containers are given is what the programs take.


def untaken(words):
    """Return what `ipfl` doesn't take of a command: its name, an option, or one that it lacks."""
    command, context = typer.main.get_command(cli), click.Context(click.Command("ipfl"))
    words = list(words)
    while isinstance(command, click.Group):
        name = words.pop(0)
        command = command.get_command(context, name)
        if command is None:
            return [f"no command {name}"]
    given = {word.partition("=")[0] for word in words if word.startswith("--")}
    known = {option for each in command.params for option in [*each.opts, *each.secondary_opts]}
    required = [each.opts for each in command.params if each.required and each.opts[0][0] == "-"]
    return sorted(given - known) + [opts[0] for opts in required if not given & set(opts)]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_container_runs_a_command_that_there_is(overlay, rendered):
    for each in [each for found in workloads(rendered[overlay]) for each in found.containers]:
        program, *arguments = each["command"]
        if program == "flower-superexec":
            superexec_parser().parse_args(arguments)
        elif program == "ipfl":
            assert untaken(arguments) == [], each["command"]
        else:
            assert each["command"][:2] == ["sh", "/etc/ipfl/run.sh"]


def test_every_command_of_the_guide_is_one_that_there_is():
    text = GUIDE.replace("\\\n", " ")
    commands = re.findall(r"^ipfl (.*)$|[^`\w]ipfl ([a-z].*)$|`ipfl ([^`]+)`", text, re.MULTILINE)
    words = [shlex.split(next(filter(None, found)), comments=True) for found in commands]
    # In prose a command may be named without what it takes.
    wrong = [(each, untaken(each)) for each in words if len(each) > 2]
    assert len(words) > 10
    assert [(each, found) for each, found in wrong if found] == []


def test_a_command_that_there_is_not_is_found():
    assert untaken(["run", "market.toml", "--superlink=market"]) == []
    assert untaken(["run", "market.toml", "--superlnk=market"]) == ["--superlnk"]
    assert untaken(["ledger", "forget", "ledger.db"]) == ["no command forget"]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_probe_is_a_program_that_there_is(overlay, rendered):
    from ipfl_flower.cli import health  # noqa: PLC0415

    probes = [
        each[probe]["exec"]["command"]
        for found in workloads(rendered[overlay])
        for each in found.containers
        for probe in ("startupProbe", "readinessProbe", "livenessProbe")
        if probe in each
    ]
    assert probes
    for python, option, given, *arguments in probes:
        assert python == "python"
        if option == "-c":
            compile(given, "probe", "exec")
        else:
            assert (option, given) == ("-m", health.__name__)
            health._parser().parse_args(arguments)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_settings_are_read_and_name_folders_that_are_mounted(overlay, rendered):
    found = 0
    for settings in kind(rendered[overlay], "ConfigMap"):
        if "market.toml" in settings["data"]:
            values = tomllib.loads(settings["data"]["market.toml"])
            read = Settings.read(values)
            folders = [values["models-dir"], values["initial-model"]]
            assert read.ledger.startswith(("/srv/market/", "postgresql+psycopg:///"))
            assert all(Path(folder).is_relative_to("/srv/market") for folder in folders)
            run = container(rendered[overlay], "run", "operator")
            assert run["command"][2] == values["initial-model"]
            for name in ("executor", "run"):
                each = container(rendered[overlay], name, "operator")
                assert "/srv/market" in [mount["mountPath"] for mount in each["volumeMounts"]]
        elif "institution.toml" in settings["data"]:
            read = _File.model_validate(tomllib.loads(settings["data"]["institution.toml"]))
            assert read.name == space(settings)
            assert Path(read.state_dir).is_relative_to("/var/lib/ipfl")
        else:
            continue
        found += 1
    assert found == (4 if overlay == "demo" else 1)


def test_flowers_connection_is_the_superlink_beside_it(rendered):
    operator = pod(rendered["operator"], "operator")
    superlink, executor, run = (
        container(rendered["operator"], name, "operator")
        for name in ("superlink", "executor", "run")
    )
    [config] = [c for c in kind(rendered["operator"], "ConfigMap") if "config.toml" in c["data"]]
    connection = tomllib.loads(config["data"]["config.toml"])["superlink"]["market"]
    host, port = connection["address"].split(":")
    assert {f"--host={host}", f"--port={port}"} <= set(superlink["command"])
    assert f"--runtime-api-address={connection['address']}" in executor["command"]
    [mount] = [m for m in run["volumeMounts"] if m["mountPath"] == "/run/ipfl"]
    folder, file = connection["root-certificates"].rsplit("/", 1)
    assert folder == mount["mountPath"]
    assert [i["path"] for i in operator.volumes()[mount["name"]]["secret"]["items"]] == [file]
    # The private key is the SuperLink's alone.
    keys = {
        each["name"]
        for each in operator.containers
        for m in each["volumeMounts"]
        if "server.key" in str(operator.volumes()[m["name"]])
    }
    assert keys == {"superlink"}


def test_the_supernode_dials_the_trainers_service(rendered):
    objects = rendered["institution"]
    [given] = [a for a in container(objects, "supernode")["command"] if a.startswith("--trainer=")]
    name, port = given.removeprefix("--trainer=").split(":")
    [dialled] = item(objects, "Service", name)["spec"]["ports"]
    assert dialled["port"] == int(port)
    assert (
        f"--listen=0.0.0.0:{container(objects)['ports'][0]['containerPort']}"
        in container(objects)["command"]
    )
    # The certificate names what is dialled: by the SuperNode, and by the probe.
    [made] = [line for line in GUIDE.splitlines() if line.startswith("ipfl certs trainer")]
    words = shlex.split(made)
    hosts = {words[i + 1] for i, word in enumerate(words) if word == "--host"}
    assert hosts == {name, "localhost"}


# The script that keeps a market going, with a stand-in for `ipfl`.


@pytest.fixture
def market(tmp_path):
    """Start run.sh; give the process, θ⁰'s file, and what the stand-in writes when it starts."""
    stand_in = tmp_path / "ipfl"
    started = []

    def start(body):
        said = tmp_path / "said"
        stand_in.write_text(f'#!/bin/sh\necho "$@" > {said}.new\nmv {said}.new {said}\n{body}\n')
        stand_in.chmod(0o755)
        child = subprocess.Popen(
            [
                "sh",
                str(KUBERNETES / "base/operator/run.sh"),
                str(tmp_path / "theta0"),
                "market.toml",
            ],
            env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"},
            stdout=subprocess.PIPE,
            text=True,
        )
        started.append(child)
        assert "waiting for the initial model" in child.stdout.readline()
        return child, tmp_path / "theta0", said

    yield start
    for child in started:
        child.kill()
        child.wait()
        child.stdout.close()


def appears(path):
    end = time.monotonic() + DEADLINE_S
    while not path.exists():
        assert time.monotonic() < end, f"{path} did not appear within {DEADLINE_S} s"
        time.sleep(0.02)
    return path.read_text()


def test_a_market_waits_for_its_initial_model_and_stays_when_it_has_ended(market):
    child, initial, said = market("exit 0")
    assert not said.exists()
    initial.touch()
    assert appears(said) == "run market.toml --superlink market --resume\n"
    assert "has ended" in child.stdout.readline()
    assert child.poll() is None
    child.send_signal(signal.SIGTERM)
    assert child.wait(DEADLINE_S) == 0


def test_a_market_that_fails_ends_its_container_with_the_code(market):
    child, initial, _ = market("exit 7")
    initial.touch()
    assert child.wait(DEADLINE_S) == 7


def test_a_pod_that_ends_lets_the_market_end_first(market, tmp_path):
    child, initial, said = market(
        f"trap 'echo bye > {tmp_path}/bye; exit 130' TERM\nwhile :; do sleep 0.05; done"
    )
    initial.touch()
    appears(said)
    child.send_signal(signal.SIGTERM)
    assert child.wait(DEADLINE_S) == 0
    assert (tmp_path / "bye").read_text() == "bye\n"
