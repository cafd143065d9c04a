"""docs/operate.md and docs/join.md, followed on containers: an operator and institutions on hosts
of their own, one of which joins a market that runs, and a certificate that has expired."""

import json
import re
from contextlib import ExitStack
from pathlib import Path

import pytest
import yaml
from support.compose import Project, Watcher, watching
from support.containers import ROOT, TAG, docker, engine_missing, logs, network
from support.door import expire
from support.guide import Terminal
from support.hosts import (
    BACKUP,
    CHECK,
    CONSOLE,
    DOCTOR,
    EXPEL,
    IMAGES,
    NAMES,
    NEWCOMER,
    RENEW,
    RUN,
    House,
    Operator,
    institution,
    join,
    open_operator,
)

from ipfl_flower.cli.greeting import Code

ROUND_DEADLINE_S = 600.0
START_DEADLINE_S = 120.0

pytestmark = [pytest.mark.containers, pytest.mark.e2e, pytest.mark.timeout(2400)]


@pytest.fixture(scope="module")
def host():
    """Build the images as the docs say; give the address at which containers reach this host."""
    missing = engine_missing()
    if missing is not None:
        pytest.skip(missing)
    Terminal(ROOT, {"TAG": TAG}, {}).type(IMAGES)
    with network() as (_, address):
        yield address


@pytest.fixture(scope="module")
def followed(host, tmp_path_factory):
    """Follow the docs, from nothing to a market that a newcomer trades in; give all the houses."""
    folder = tmp_path_factory.mktemp("hosts")
    with ExitStack() as stack:
        operator = stack.enter_context(open_operator(folder, host))
        houses = {"operator": operator}
        for name in (*NAMES, NEWCOMER):
            houses[name] = stack.enter_context(institution(name, folder))
        join(operator, houses["alder"], "alder")
        let_expire_and_renew(operator, houses["alder"], folder)
        join(operator, houses["birch"], "birch")
        operator.said["run"] = operator.terminal.type(RUN)
        watcher = stack.enter_context(watching(operator.project))
        trade(operator, houses, watcher)
        yield houses


def let_expire_and_renew(operator: Operator, there: House, folder: Path) -> None:
    """Let the SuperLink's certificate expire, see who is refused, and renew as the docs say."""
    comes_in(there, 1)
    put_expired_certificate(operator.project, folder / "expired")
    before = refusals(operator.project)
    operator.project.compose("restart", "superlink")
    there.project.compose("restart", "supernode")
    there.project.wait_for(
        "the SuperNode is refused", lambda: exit_code(there) == Code.CERTIFICATE_EXPIRED, 60.0
    )
    operator.project.wait_for(
        "the refusal is counted", lambda: refusals(operator.project) > before, 60.0
    )
    operator.seen["expired"] = logs(operator.project.container("superlink")["Id"])
    there.said["expired"] = logs(there.project.container("supernode")["Id"])
    operator.terminal.type(RENEW)
    comes_in(there, 2)


def comes_in(there: House, times: int) -> None:
    """Wait until a SuperNode has been let in so often."""

    def let_in() -> bool:
        said = logs(there.project.container("supernode")["Id"], "all")
        return said.count("SuperNode ID:") >= times

    there.project.wait_for(f"the SuperNode is let in, {times}", let_in, START_DEADLINE_S)


def put_expired_certificate(operator: Project, scratch: Path) -> None:
    """Put a certificate that expired a day ago in place of the SuperLink's."""
    scratch.mkdir()
    authority = operator.volume("authority")
    for name in ("ca.key", "server.pem"):
        content = docker(*server("cat", f"{authority}:/authority:ro"), f"/authority/{name}")
        (scratch / name).write_text(content + "\n")
    expire(scratch)
    (scratch / "server.pem").chmod(0o644)
    mounts = [
        f"{scratch / 'server.pem'}:/expired.pem:ro",
        f"{authority}:/authority",
        f"{operator.volume('superlink-certificates')}:/superlink-certificates",
    ]
    copy = (
        "cp /expired.pem /authority/server.pem; cp /expired.pem /superlink-certificates/server.pem"
    )
    docker(*server("sh", *mounts), "-c", copy)


def server(entrypoint: str, *mounts: str) -> list[str]:
    """Return how the server's image runs a program with some volumes."""
    volumes = [part for mount in mounts for part in ("--volume", mount)]
    image = f"ipfl-server:{TAG}"
    return ["run", "--rm", "--network", "none", *volumes, "--entrypoint", entrypoint, image]


def exit_code(there: House) -> int | None:
    """Return the exit code with which the SuperNode ended last, or None while it runs."""
    state = there.project.container("supernode")["State"]
    return None if state["Running"] and not state["Restarting"] else state["ExitCode"]


def refusals(operator: Project) -> int:
    """Return how many hung up on the SuperLink's certificate; the first one makes the file."""
    code = (
        "import pathlib; file = pathlib.Path('/superlink/refusals.json');"
        " print(file.read_text() if file.exists() else '{}')"
    )
    volume = f"{operator.volume('superlink')}:/superlink"
    found = json.loads(docker(*server("python", volume), "-c", code))
    return found["counts"]["certificate"] if found else 0


def trade(operator: Operator, houses: dict[str, House], watcher: Watcher) -> None:
    """Play with two; let the newcomer join; expel the first."""
    begun = settled_with(watcher, 0, set(NAMES), set(NAMES))
    join(operator, houses[NEWCOMER], NEWCOMER)
    traded = settled_with(watcher, begun, {NEWCOMER}, {*NAMES, NEWCOMER})
    operator.seen["newcomer's first round"] = traded
    # A round's receipt comes with the next round.
    settled_with(watcher, traded + 2, {NEWCOMER}, {*NAMES, NEWCOMER})
    operator.seen["statement"] = statement(operator.project, NEWCOMER)
    for name in (*NAMES, NEWCOMER):
        houses[name].said["receipts"] = houses[name].terminal.type(CHECK)
    operator.said["backup"] = operator.terminal.type(BACKUP)
    operator.said["doctor"] = operator.terminal.type(DOCTOR)
    operator.said["console"] = operator.terminal.type(CONSOLE)
    operator.terminal.learn("alder", "alder")
    operator.said["expel"] = operator.terminal.type(EXPEL)
    after = watcher.now()["round"]
    operator.seen["expelled in"] = after
    settled_with(watcher, after + 1, {"birch", NEWCOMER}, {"birch", NEWCOMER})
    operator.seen["end"] = watcher.now()


def settled_with(watcher: Watcher, number: int, some: set[str], at_most: set[str]) -> int:
    """Wait until a round, `number` or later, is settled with some institutions; return which."""

    def found(now: dict) -> list[int]:
        return [
            int(each)
            for each, names in now["settled"].items()
            if int(each) >= number and some <= set(names) <= at_most
        ]

    what = f"round {number} or a later one is settled with {sorted(some)}"
    return min(found(watcher.wait_until(what, lambda now: bool(found(now)), ROUND_DEADLINE_S)))


def statement(operator: Project, name: str) -> dict:
    """Return an institution's statement."""
    arguments = ("statement", "/market/ledger.db", name, "--json")
    return json.loads(operator.compose("run", "--rm", "-T", "ledger", *arguments))


def test_the_docs_lead_from_nothing_to_a_market_that_runs(followed):
    operator = followed["operator"]
    assert "balance" in operator.said["run"]
    assert set(NAMES) <= set(operator.seen["end"]["settled"]["0"])
    assert NEWCOMER not in operator.seen["end"]["settled"]["0"]


def test_a_newcomer_joins_halfway_and_trades(followed):
    operator = followed["operator"]
    assert operator.seen["newcomer's first round"] >= 1
    lines = operator.seen["statement"]["lines"]
    assert lines
    assert min(line["round"] for line in lines) >= operator.seen["newcomer's first round"]
    assert {line["counterparty"] for line in lines} <= set(NAMES)


@pytest.mark.parametrize("name", [*NAMES, NEWCOMER])
def test_receipts_verify_where_they_are_kept(followed, name):
    [count] = re.findall(
        r"^verified: (\d+) receipts$", followed[name].said["receipts"], re.MULTILINE
    )
    assert int(count) >= 2


def test_an_expired_certificate_is_told_in_one_line_on_both_sides_and_a_renewed_one_is_good(
    followed,
):
    operator, there = followed["operator"], followed["alder"]
    line = there.said["expired"].splitlines()[-1]
    assert line.startswith(f"ipfl: the certificate of the SuperLink at {operator.address}")
    assert "has expired" in line
    assert "ipfl certs operator DIR --renew" in line
    assert "server.pem expired on" in operator.seen["expired"]
    # The documented code was waited for on the way, and so was that it came in again: it trades.
    assert "alder" in operator.seen["end"]["settled"]["0"]


def test_a_backup_of_a_market_that_runs_verifies(followed):
    operator = followed["operator"]
    assert re.search(r"^backed up to \S+/backup/ledger\.db$", operator.said["backup"], re.MULTILINE)
    assert re.search(r"^verified: \d+ rounds", operator.said["backup"], re.MULTILINE)


def test_the_doctor_finds_everything_as_it_should_be(followed):
    """It ends with an error where it doesn't; what it can't know here is said."""
    lines = re.findall(
        r"^(ok|warn|fail) +([a-z .]+?): ", followed["operator"].said["doctor"], re.MULTILINE
    )
    states = {check: state for state, check in lines}
    assert {check for check, state in states.items() if state != "ok"} <= {"refusals", "disk"}
    assert {"fleet tls", "clock", "superlink", "ledger", "admissions", "secrets"} <= states.keys()


def test_the_console_is_up_and_its_token_read_as_the_docs_say(followed):
    operator = followed["operator"]
    assert re.search(r"^[0-9a-f]{64}$", operator.said["console"], re.MULTILINE)


def test_whom_the_operator_expels_is_asked_no_more(followed):
    operator = followed["operator"]
    assert "alder is expelled" in operator.said["expel"]
    assert "unregistered" in operator.said["expel"]
    later = {
        number: names
        for number, names in operator.seen["end"]["settled"].items()
        if int(number) > operator.seen["expelled in"]
    }
    assert later
    assert not [number for number, names in later.items() if "alder" in names]


def test_every_container_is_locked_down_and_the_fleet_port_and_the_console_are_published(followed):
    published = set()
    for house in followed.values():
        for service, item in house.project.containers().items():
            limits = item["HostConfig"]
            assert limits["ReadonlyRootfs"], service
            assert limits["CapDrop"] == ["ALL"], service
            assert item["Config"]["User"] == "10001:10001", service
            ports = item["NetworkSettings"]["Ports"] or {}
            published |= {(service, port) for port, bindings in ports.items() if bindings}
    assert published == {("superlink", "9092/tcp"), ("console", "8080/tcp")}


def test_the_trainer_gets_gpus_by_the_profile_alone(host, tmp_path):
    with institution("alder", tmp_path) as there:
        said = there.project.compose("--profile", "cpu", "--profile", "gpu", "config")
    services = yaml.safe_load(said)["services"]
    assert services["trainer"]["profiles"] == ["cpu"]
    assert services["trainer-gpu"]["profiles"] == ["gpu"]
    [device] = services["trainer-gpu"]["deploy"]["resources"]["reservations"]["devices"]
    assert device == {"driver": "nvidia", "count": 1, "capabilities": ["gpu"]}
    assert [name for name, service in services.items() if "deploy" in service] == ["trainer-gpu"]
