"""The demo's compose file: one market on real containers, hurt in every way, to its end."""

import json
import subprocess
import time
import tomllib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import cycle

import pytest
from support.compose import COMPOSE, Project, Watcher, project, watching
from support.containers import TAG, build, docker, engine_missing

from ipfl_flower.cli.bundle import to_toml
from ipfl_flower.cli.demo import DemoOptions, market_settings, write_institutions

NAMES = ("alder", "birch", "cedar", "elm")
# More than go by while those who were hurt come back, also where containers share two cores.
ROUNDS = 14
USER = "10001"
LASTING = (
    "superlink",
    "executor",
    *(f"{n}-{role}" for n in NAMES for role in ("trainer", "supernode")),
)
HEALTH_DEADLINE_S = 180.0
HELD_S = 40.0
# A SuperNode that was killed counts as online for a minute; then a round waits this long for it.
ABSENCE_S = 20.0
ROUND_DEADLINE_S = 400.0

pytestmark = [pytest.mark.containers, pytest.mark.e2e, pytest.mark.timeout(3000)]


@dataclass
class Played:
    """What was seen of the market on the way, and the project as it stands after it."""

    project: Project
    hit: dict[str, dict] = field(default_factory=dict)
    containers: dict[str, dict] = field(default_factory=dict)
    end: dict = field(default_factory=dict)


@pytest.fixture(scope="module")
def images():
    """Build the demo's images."""
    missing = engine_missing()
    if missing is not None:
        pytest.skip(missing)
    for image in ("server", "supernode", "trainer"):
        build(image)


@pytest.fixture(scope="module")
def played(images, tmp_path_factory):
    """Play a market of four institutions, and do to it what may happen to one."""
    market = tmp_path_factory.mktemp("compose") / "market.toml"
    market.write_text(to_toml(short_market()))
    market.parent.chmod(0o755)
    market.chmod(0o644)
    with ExitStack() as stack:
        demo = stack.enter_context(
            project(
                "demo.yml",
                IPFL_MARKET=str(market),
                IPFL_INSTITUTIONS=" ".join(NAMES),
                IPFL_FLEET="127.0.0.1:",  # any free port
            )
        )
        demo.up("run", *LASTING)
        watcher = stack.enter_context(watching(demo))
        played = Played(demo, containers=demo.containers())
        play(played, watcher)
        yield played


def play(played: Played, watcher: Watcher) -> None:
    """Kill, stop, cut off, and kill the operator, each in the middle of a round of its own."""
    demo = played.project
    settled(watcher, 0)
    with held(demo, "birch-trainer"):
        with held(demo, "alder-trainer"):
            begun = collecting(watcher, 1, "alder", "birch")
            demo.crash("alder-supernode")
        demo.crash("alder-trainer")
        played.hit["killed"] = watcher.now()
        demo.compose("stop", "birch-supernode")
        played.hit["stopped"] = watcher.now()
    demo.compose("start", "birch-supernode")
    settled(watcher, begun["round"])

    with held(demo, "cedar-trainer"):
        with held(demo, "elm-trainer"):
            begun = collecting(watcher, begun["round"] + 1, "cedar", "elm")
            # By the engine, which doesn't start it again.
            demo.compose("kill", "elm-supernode")
        demo.compose("kill", "elm-trainer")
        played.hit["killed for longer"] = watcher.now()
        network, supernode = demo.volume("cedar"), demo.container("cedar-supernode")["Id"]
        docker("network", "disconnect", network, supernode)
        played.hit["cut off"] = watcher.now()
        others_replied(watcher, begun["round"], "cedar", "elm")
        docker("network", "connect", network, supernode)
        played.hit["connected"] = watcher.now()
    settled(watcher, begun["round"])
    demo.compose("start", "elm-trainer", "elm-supernode")
    wait_while_held(demo, lambda: is_healthy(demo, "elm-supernode"), "alder", "birch", "cedar")

    with held(demo, "elm-trainer"):
        begun = collecting(watcher, begun["round"] + 1, "elm")
        demo.crash("superlink", "executor", "run")
        played.hit["operator killed"] = watcher.now()
    settled(watcher, begun["round"])

    demo.wait_for("the market has ended", lambda: ended(demo), ROUNDS * ROUND_DEADLINE_S)
    played.end = watcher.now()


@contextmanager
def held(demo: Project, trainer: str) -> Iterator[None]:
    """Let a trainer stand still: its institution can't answer before what is done to it is done."""
    demo.compose("pause", trainer)
    try:
        yield
    finally:
        demo.compose("unpause", trainer)


def wait_while_held(demo: Project, holds: Callable[[], bool], *names: str) -> None:
    """Wait for something, and let no more than a round end in every HELD_S meanwhile.

    The trainers of `names` stand still in turn, for less than the minute that a client app waits.
    """
    deadline = time.monotonic() + HEALTH_DEADLINE_S
    for name in cycle(names):
        if holds() or time.monotonic() >= deadline:
            break
        end = time.monotonic() + HELD_S
        with held(demo, f"{name}-trainer"):
            while not holds() and time.monotonic() < end:
                time.sleep(1.0)
    demo.wait_for("what all waited for", holds, 1.0)


def short_market() -> dict:
    """Return the demo's settings for fewer institutions, and less patience with who is away."""
    settings = tomllib.loads((COMPOSE / "demo" / "market.toml").read_text())
    return settings | {
        "rounds": ROUNDS,
        "institutions-min": len(NAMES),
        "absence-s": ABSENCE_S,
        "deadline-s": ROUND_DEADLINE_S / 2,
    }


def collecting(watcher: Watcher, number: int, *names: str) -> dict:
    """Wait until a round waits for `names`: round `number`, or a later one that asks them."""
    return watcher.wait_until(
        f"round {number} or a later one waits for {names or 'anybody'}",
        lambda now: (
            now["round"] is not None
            and now["round"] >= number
            and now["phase"] == "COLLECTING"
            and bool(now["waiting"])
            and set(names) <= set(now["waiting"])
        ),
        ROUND_DEADLINE_S,
    )


def others_replied(watcher: Watcher, number: int, *names: str) -> dict:
    """Wait until a round waits for nobody but `names`, or is over."""
    return watcher.wait_until(
        f"round {number} waits for {names} alone",
        lambda now: now["round"] != number or set(now["waiting"]) <= set(names),
        ROUND_DEADLINE_S,
    )


def settled(watcher: Watcher, number: int) -> dict:
    return watcher.wait_until(
        f"round {number} is settled", lambda now: str(number) in now["settled"], ROUND_DEADLINE_S
    )


def healthy(demo: Project) -> bool:
    return all(is_healthy(demo, service) for service in LASTING if service != "executor")


def is_healthy(demo: Project, service: str) -> bool:
    return demo.container(service)["State"]["Health"]["Status"] == "healthy"


def ended(demo: Project) -> bool:
    state = demo.container("run")["State"]
    return state["Status"] == "exited" and state["ExitCode"] == 0


# Mounts on which files can be made.
WRITABLE = """
import json, os, tempfile
found = []
for line in open("/proc/self/mounts"):
    place, kind = line.split()[1:3]
    if not os.path.isdir(place) or kind in ("proc", "sysfs", "cgroup2", "devpts", "mqueue"):
        continue
    try:
        with tempfile.TemporaryFile(dir=place):
            found.append(place)
    except OSError:
        pass
print(json.dumps(found))
"""

SCAN = """
import socket
address, found = socket.gethostbyname({host!r}), []
for port in range(1, 65536):
    with socket.socket() as probe:
        probe.settimeout(1.0)
        if probe.connect_ex((address, port)) == 0:
            found.append(port)
print(*found)
"""

CONNECT = """
import socket
try:
    socket.create_connection(({host!r}, {port}), 3.0).close()
    print("open")
except OSError as error:
    print(error)
"""


def stranger(demo: Project, certificates: str) -> None:
    """Let a SuperNode with a key of its own try to get in from alder's network, for a while."""
    script = (
        "ipfl join-request stranger --dir /tmp/key && ipfl certs operator /tmp/other --host x"
        " && exec timeout 15 flower-supernode --superlink superlink:9092"
        f" --auth-supernode-private-key /tmp/key/node.key {certificates}"
    )
    subprocess.run(
        [
            *("docker", "run", "--rm", "--network", demo.volume("alder"), "--entrypoint", "sh"),
            *("--volume", f"{demo.volume('alder-kit')}:/institution:ro"),
            *(f"ipfl-supernode:{TAG}", "-c", script),
        ],
        capture_output=True,
        check=False,
        timeout=120,
    )


def refusals(demo: Project) -> dict[str, int]:
    """Return how many the SuperLink has refused, by kind."""
    code = "import pathlib; print(pathlib.Path('/superlink/refusals.json').read_text())"
    return json.loads(demo.python("superlink", code))["counts"]


def counted(demo: Project, kind: str, before: dict[str, int]) -> bool:
    """Wait until one more of a kind was refused than before."""
    demo.wait_for(f"{kind} is counted", lambda: refusals(demo)[kind] > before[kind], 30.0)
    return True


def scan(demo: Project, service: str, host: str) -> list[int]:
    """Return the TCP ports of `host` that a service's container can connect to."""
    return [int(port) for port in demo.python(service, SCAN.format(host=host)).split()]


def connects(demo: Project, service: str, host: str, port: int) -> bool:
    return demo.python(service, CONNECT.format(host=host, port=port)) == "open"


def internal(demo: Project, service: str) -> list[bool]:
    """Tell of each network that a container is on whether the engine lets nothing out of it."""
    networks = demo.container(service)["NetworkSettings"]["Networks"]
    return [item["Internal"] for item in json.loads(docker("network", "inspect", *networks))]


def address(demo: Project, service: str, network: str) -> str:
    networks = demo.container(service)["NetworkSettings"]["Networks"]
    return networks[demo.volume(network)]["IPAddress"]


def volumes(container: dict) -> set[str]:
    return {mount.get("Name", "") for mount in container["Mounts"]}


def test_the_market_runs_to_its_end_and_the_ledger_verifies(played):
    assert sorted(map(int, played.end["settled"])) == list(range(ROUNDS))
    assert set(played.end["states"].values()) == {"DELIVERED"}
    assert set(played.end["settled"]["0"]) == set(NAMES)
    said = played.project.compose("run", "--rm", "-T", "ledger", "verify", "/market/ledger.db")
    assert f"verified: {ROUNDS} rounds" in said


def test_every_receipt_that_the_institutions_keep_is_the_ledgers(played):
    mounts = [f"{played.project.volume(f'{name}-state')}:/audit/{name}:ro" for name in NAMES]
    said = docker(
        *(
            "run",
            "--rm",
            "--network",
            "none",
            "--volume",
            f"{played.project.volume('market')}:/market",
        ),
        *(part for mount in mounts for part in ("--volume", mount)),
        *(f"ipfl-server:{TAG}", "ledger", "verify", "/market/ledger.db", "--receipts", "/audit"),
    )
    assert "verified" in said
    for name in NAMES:
        container = played.project.container(f"{name}-trainer")["Id"]
        kept = docker("exec", container, "sh", "-c", "ls /state/receipts").split()
        assert len([file for file in kept if file.startswith("round-")]) >= ROUNDS - 5
        assert not [file for file in kept if "alarm" in file]


def test_a_killed_and_a_stopped_institution_were_missed_in_the_round_and_came_back(played):
    for what, name in (("killed", "alder"), ("stopped", "birch")):
        hit = played.hit[what]
        assert hit["phase"] == "COLLECTING"
        assert name in hit["waiting"]
        assert_came_back(played, name, hit["round"])
    assert played.project.container("alder-supernode")["RestartCount"] >= 1
    assert played.project.container("alder-trainer")["RestartCount"] >= 1


def test_an_institution_that_was_cut_off_and_connected_again_came_back(played):
    hit, connected = played.hit["cut off"], played.hit["connected"]
    assert hit["phase"] == "COLLECTING"
    assert "cedar" in hit["waiting"]
    assert connected["round"] == hit["round"]
    assert set(connected["waiting"]) == {"cedar", "elm"}
    assert_came_back(played, "cedar", hit["round"])


def test_a_round_settled_without_whom_it_lost_for_good_and_who_came_back_later_traded(played):
    hit = played.hit["killed for longer"]
    assert hit["phase"] == "COLLECTING"
    assert "elm" in hit["waiting"]
    assert "elm" not in played.end["settled"][str(hit["round"])]
    assert_came_back(played, "elm", hit["round"])
    said = played.project.compose(
        *("run", "--rm", "-T", "ledger", "statement", "/market/ledger.db", "elm", "--json")
    )
    traded = {line["round"] for line in json.loads(said)["lines"]}
    assert hit["round"] not in traded
    assert max(traded) > hit["round"]


def test_the_killed_operator_came_back_on_its_volumes_and_went_on(played):
    hit = played.hit["operator killed"]
    assert hit["phase"] == "COLLECTING"
    assert str(hit["round"]) in played.end["settled"]
    for service in ("superlink", "executor", "run"):
        assert played.project.container(service)["RestartCount"] >= 1
        before = played.containers[service]["Id"]
        assert played.project.container(service)["Id"] == before


def assert_came_back(played, name, number):
    later = [names for settled, names in played.end["settled"].items() if int(settled) > number]
    assert any(name in names for names in later)


def test_all_that_came_back_is_healthy(played):
    demo = played.project
    demo.wait_for("all are healthy", lambda: healthy(demo), HEALTH_DEADLINE_S)


def test_no_port_but_the_fleets_is_published(played):
    published = {
        (service, port, binding["HostIp"])
        for service, item in played.containers.items()
        for port, bindings in (item["NetworkSettings"]["Ports"] or {}).items()
        for binding in bindings or []
    }
    assert published == {("superlink", "9092/tcp", "127.0.0.1")}


def test_of_the_operator_an_institution_reaches_the_fleet_port_alone(played):
    demo = played.project
    assert scan(demo, "alder-supernode", "superlink") == [9092]
    # From the operator's own network it is two, which shows that the scan sees what there is.
    assert scan(demo, "executor", "superlink") == [8000, 9092]
    control = address(demo, "superlink", "operator")
    assert connects(demo, "executor", control, 8000)
    assert not connects(demo, "alder-supernode", control, 8000)
    assert not connects(demo, "alder-supernode", "control", 8000)


def test_institutions_do_not_reach_each_other_or_the_world(played):
    demo = played.project
    birch = address(demo, "birch-supernode", "birch")
    assert not connects(demo, "alder-supernode", birch, 9094)
    assert not connects(demo, "alder-supernode", "birch-supernode", 9094)
    # Nor is there a way out; the SuperLink has one, since it publishes a port.
    assert internal(demo, "alder-supernode") == [True]
    assert internal(demo, "executor") == [True]
    assert False in internal(demo, "superlink")


def test_a_trainer_has_no_network_and_its_socket_is_its_own_supernodes(played):
    demo = played.project
    for name in NAMES:
        trainer = played.containers[f"{name}-trainer"]
        assert list(trainer["NetworkSettings"]["Networks"]) == ["none"]
        interfaces = demo.python(
            f"{name}-trainer", "import os; print(*os.listdir('/sys/class/net'))"
        )
        assert interfaces == "lo"
        volume = demo.volume(f"{name}-socket")
        having = {service for service, item in played.containers.items() if volume in volumes(item)}
        assert having == {f"{name}-trainer", f"{name}-supernode"}
    ask = "from ipfl_flower.cli.health import main; print(main(['trainer', 'unix:///run/ipfl/trainer.sock']))"
    assert demo.python("alder-supernode", ask) == "0"


def test_data_and_state_are_mounted_by_the_trainer_alone(played):
    for name in NAMES:
        state = played.project.volume(f"{name}-state")
        having = {service for service, item in played.containers.items() if state in volumes(item)}
        assert having == {f"{name}-trainer"}
        kit = played.project.volume(f"{name}-kit")
        having = {service for service, item in played.containers.items() if kit in volumes(item)}
        assert having == {f"{name}-join", f"{name}-supernode"}


def test_of_the_certificates_each_service_has_what_it_needs(played):
    having = {
        volume: {
            service
            for service, item in played.containers.items()
            if played.project.volume(volume) in volumes(item)
        }
        for volume in ("authority", "superlink-certificates", "superexec")
    }
    assert having == {
        "authority": {"certificates"},
        "superlink-certificates": {"certificates", "superlink"},
        "superexec": {"certificates", "executor"},
    }
    files = "import os; print(*sorted(os.listdir('/certificates')))"
    said = played.project.python("superlink", files)
    assert said.split() == ["ca.pem", "server.key", "server.pem", "superexec.secret"]
    # That volume is the one that everybody at the operator has: admit, run and executor.
    assert played.project.python("executor", files).split() == ["ca.pem", "server.pem"]


def test_a_stranger_is_refused_at_the_door_and_counted(played):
    before = refusals(played.project)
    stranger(played.project, "--root-certificates /institution/ca.pem")
    assert counted(played.project, "unknown-key", before)


def test_who_trusts_another_authority_does_not_come_in_and_is_counted(played):
    before = refusals(played.project)
    stranger(played.project, "--root-certificates /tmp/other/ca.pem")
    assert counted(played.project, "certificate", before)


def test_a_name_that_is_taken_is_not_given_to_another_key(played, tmp_path):
    printed = docker(
        *("run", "--rm", "--network", "none", "--entrypoint", "sh", f"ipfl-supernode:{TAG}", "-c"),
        "ipfl join-request alder --dir /tmp/key >/dev/null && cat /tmp/key/alder.request.json",
    )
    tmp_path.chmod(0o755)
    request = tmp_path / "alder.request.json"
    request.write_text(printed)
    request.chmod(0o644)
    said = played.project.refused(
        *("run", "--rm", "-T", "--volume", f"{request}:/request.json:ro", "--entrypoint", "ipfl"),
        *("admit", "admit", "/request.json", "--market=/market.toml", "--fleet=superlink:9092"),
        *("--certificates=/certificates", "--kit=/tmp/kit"),
    )
    assert said.count("SHA256:") == 2
    assert "alder" in said


def test_every_container_is_locked_down(played):
    for service, item in played.containers.items():
        host = item["HostConfig"]
        assert host["ReadonlyRootfs"], service
        assert host["CapDrop"] == ["ALL"], service
        assert not host["CapAdd"], service
        assert "no-new-privileges:true" in host["SecurityOpt"], service
        assert not host["Privileged"], service
        assert item["Config"]["User"] == "10001:10001", service


@pytest.mark.parametrize("service", ["superlink", "executor", "alder-supernode", "alder-trainer"])
def test_a_running_process_is_nobody_in_particular_and_writes_to_its_volumes_alone(played, service):
    demo = played.project
    status = dict(
        line.split(":", 1)
        for line in demo.python(service, "print(open('/proc/1/status').read())").splitlines()
        if ":" in line
    )
    assert status["Uid"].split() == [USER] * 4
    assert status["Gid"].split() == [USER] * 4
    assert int(status["CapEff"], 16) == int(status["CapBnd"], 16) == 0
    assert status["NoNewPrivs"].strip() == "1"
    writable = json.loads(demo.python(service, WRITABLE))
    volumes = {mount["Destination"] for mount in demo.container(service)["Mounts"] if mount["RW"]}
    assert set(writable) == {"/tmp", *volumes}


def test_the_files_of_the_demo_are_those_of_ipfl_demo(tmp_path):
    options = DemoOptions()
    for name, file in write_institutions(options, tmp_path).items():
        there = tomllib.loads((COMPOSE / "demo" / f"{name}.toml").read_text())
        assert there == tomllib.loads(file.read_text()) | {"state_dir": "/state"}
    places = {"ledger", "models-dir", "initial-model", "join-deadline-s"}
    there = tomllib.loads((COMPOSE / "demo" / "market.toml").read_text())
    ours = {key: value for key, value in market_settings(options, tmp_path).items() if value != ""}
    assert {k: v for k, v in there.items() if k not in places} == {
        k: v for k, v in ours.items() if k not in places
    }
