"""What watches a market in containers: its console, which can do no harm, and its monitoring."""

import json
import shutil
import tomllib
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from support.compose import COMPOSE, Project, project
from support.containers import TAG, build, docker, engine_missing
from support.monitoring import PROMETHEUS, find

from ipfl_flower.cli.bundle import to_toml

NAMES = ("alder", "birch")
ROUNDS = 2
MARKET_DEADLINE_S = 1500.0
HEALTH_DEADLINE_S = 180.0

# Of what the monitoring's images hold: the names under which it is here.
PROGRAMS = {
    "prometheus": ("prometheus",),
    "alertmanager": ("prometheus-alertmanager", "alertmanager"),
}
# What Debian keeps beside one of them, which its makers compile into it.
BESIDE = {"alertmanager": Path("/usr/share/prometheus/alertmanager")}
# What those images are started with where the compose file gives no command.
DEFAULTS = {
    "prometheus": [
        "--config.file=/etc/prometheus/prometheus.yml",
        "--storage.tsdb.path=/prometheus",
    ],
    "alertmanager": [],
}

pytestmark = [pytest.mark.containers, pytest.mark.e2e, pytest.mark.timeout(3000)]

CONNECT = """
import socket
try:
    socket.create_connection(({host!r}, {port}), 3.0).close()
    print("open")
except OSError as error:
    print(error)
"""


@pytest.fixture(scope="module")
def played(tmp_path_factory):
    """Play a market of two institutions to its end, with a console; give the project."""
    missing = engine_missing()
    if missing is not None:
        pytest.skip(missing)
    for image in ("console", "supernode", "trainer"):
        build(image)
    settings = tomllib.loads((COMPOSE / "demo" / "market.toml").read_text())
    market = tmp_path_factory.mktemp("compose") / "market.toml"
    market.write_text(to_toml(settings | {"rounds": ROUNDS, "institutions-min": len(NAMES)}))
    market.parent.chmod(0o755)
    market.chmod(0o644)
    stand_ins = {name: stand_in(name, market.parent) for name in PROGRAMS if program(name)}
    override = market.parent / "override.yml"
    override.write_text(json.dumps({"services": {n: {"image": i} for n, i in stand_ins.items()}}))
    with project(
        "demo.yml",
        [override] if stand_ins else [],
        COMPOSE_PROFILES="monitoring",
        IPFL_MARKET=str(market),
        IPFL_INSTITUTIONS=" ".join(NAMES),
        IPFL_FLEET="127.0.0.1:",  # any free port
        IPFL_CONSOLE="127.0.0.1:",
    ) as demo:
        parts = [f"{name}-{role}" for name in NAMES for role in ("trainer", "supernode")]
        demo.up("run", "console", *parts)
        demo.wait_for("the market has ended", lambda: ended(demo), MARKET_DEADLINE_S)
        yield demo


def program(name: str) -> str | None:
    return find(*PROGRAMS[name])


def stand_in(name: str, folder: Path) -> str:
    """Make an image of this machine's program, for one that can't be pulled everywhere.

    It takes its arguments as Prometheus' own images do. There are no such programs but Debian's,
    nor with them Grafana.
    """
    context, image = folder / name, f"ipfl-test-{name}:{TAG}"
    context.mkdir()
    shutil.copy(str(program(name)), context / "program")
    beside = BESIDE.get(name)
    if beside is not None and beside.is_dir():
        shutil.copytree(beside, context / "beside")
    (context / "Dockerfile").write_text(
        "FROM python:3.11-slim-bookworm\n"
        f"RUN install -d -o 65534 -g 65534 /{name}\n"
        "COPY program /bin/program\n"
        f"{f'COPY beside {beside}' if (context / 'beside').exists() else ''}\n"
        "USER 65534:65534\n"
        'ENTRYPOINT ["/bin/program"]\n'
        f"CMD {json.dumps(DEFAULTS[name])}\n"
    )
    docker("build", "--tag", image, context)
    return image


def ended(demo: Project) -> bool:
    state = demo.container("run")["State"]
    return state["Status"] == "exited" and state["ExitCode"] == 0


def is_healthy(demo: Project) -> bool:
    return demo.container("console")["State"]["Health"]["Status"] == "healthy"


def ask(demo: Project, path: str, token: str) -> httpx.Response:
    """Ask the console from this host, at the port that it is published on."""
    [binding] = demo.container("console")["NetworkSettings"]["Ports"]["8080/tcp"]
    assert binding["HostIp"] == "127.0.0.1"
    return httpx.get(
        f"http://127.0.0.1:{binding['HostPort']}{path}",
        headers={"Authorization": f"Bearer {token}"} if token else {},
        timeout=60.0,
    )


def told(demo: Project, path: str, token: str) -> dict:
    return ask(demo, path, token).raise_for_status().json()


@pytest.fixture(scope="module")
def token(played):
    """Give the operator's token, read as the compose file's first lines say."""
    return played.compose("exec", "-T", "console", "cat", "/console/operator-token").strip()


def test_it_shows_the_markets_last_round(played, token):
    last = ROUNDS - 1
    newest = told(played, "/api/v1/rounds", token)["rounds"][0]
    assert (newest["number"], newest["state"]) == (last, "DELIVERED")
    nodes = told(played, f"/api/v1/rounds/{last}/market", token)["nodes"]
    assert {node["name"] for node in nodes} == set(NAMES)


def test_it_verifies_the_ledger(played, token):
    def state() -> str:
        return told(played, "/api/v1/money", token)["verification"]["state"]

    played.wait_for("the ledger is verified", lambda: state() == "verified", HEALTH_DEADLINE_S)


def test_it_can_write_nothing_to_the_ledger_and_reaches_nobody_of_the_market(played):
    write = "import sqlite3; sqlite3.connect('/market/ledger.db').execute('CREATE TABLE x (y)')"
    assert "OperationalError" in played.refused("exec", "-T", "console", "python", "-c", write)
    networks = played.container("superlink")["NetworkSettings"]["Networks"]
    control = networks[played.volume("operator")]["IPAddress"]
    for host, port in ((control, 8000), ("superlink", 9092), ("control", 8000)):
        assert played.python("console", CONNECT.format(host=host, port=port)) != "open"
    # From where the executor is, that is open.
    assert played.python("executor", CONNECT.format(host=control, port=8000)) == "open"


def test_it_is_locked_down_and_writes_to_its_tmp_alone(played):
    item = played.container("console")
    limits = item["HostConfig"]
    assert limits["ReadonlyRootfs"]
    assert limits["CapDrop"] == ["ALL"]
    assert "no-new-privileges:true" in limits["SecurityOpt"]
    assert item["Config"]["User"] == "10001:10001"
    assert {mount["Destination"]: mount["RW"] for mount in item["Mounts"]} == {
        "/market": False,
        "/console": False,
    }


def test_without_a_token_it_shows_nothing_and_an_institution_sees_its_own(played):
    assert ask(played, "/api/v1/rounds", "").status_code == 401
    said = played.compose("run", "--rm", "-T", "console-token", "alder")
    played.compose("restart", "console")
    played.wait_for("the console is up again", lambda: is_healthy(played), HEALTH_DEADLINE_S)
    alder, mine = said.split()[-1], "/api/v1/accounts/{}/statement"
    assert ask(played, mine.format("alder"), alder).status_code == 200
    assert ask(played, mine.format("birch"), alder).status_code == 404


def asked(demo: Project, path: str) -> Any:
    """Ask Prometheus from the network that it is on, which has no way out."""
    code = (
        "import urllib.request as r;"
        f" print(r.urlopen('http://prometheus:9090/api/v1/{path}', timeout=20).read().decode())"
    )
    try:
        return json.loads(demo.python("metrics", code))["data"]
    except AssertionError:  # it doesn't answer yet
        return None


def test_prometheus_scrapes_the_market_and_tells_alertmanager(played):
    for name in PROGRAMS:
        if program(name) is None:
            pytest.skip(f"no {name} here, of which to make an image: apt-get install {name}")
    played.up("metrics", "prometheus", "alertmanager")

    def scraped() -> bool:
        found = asked(played, "query?query=ipfl_round_number")
        return bool(found and [item["value"][1] for item in found["result"]] == [str(ROUNDS - 1)])

    played.wait_for("the market's metrics are there", scraped, HEALTH_DEADLINE_S)
    [up] = asked(played, "query?query=up")["result"]
    assert (up["metric"]["job"], up["value"][1]) == ("ipfl", "1")
    [manager] = asked(played, "alertmanagers")["activeAlertmanagers"]
    assert manager["url"].startswith("http://alertmanager:9093/")
    [group] = asked(played, "rules")["groups"]
    [ours] = yaml.safe_load((PROMETHEUS / "alerts.yml").read_text())["groups"]
    assert [rule["name"] for rule in group["rules"]] == [rule["alert"] for rule in ours["rules"]]
    for service in ("metrics", "prometheus", "alertmanager"):
        assert played.container(service)["RestartCount"] == 0


def test_when_nothing_of_the_market_runs_it_still_answers(played, token):
    """And nobody has the ledger open, so that there are no locks to take on a read-only mount."""
    played.compose("stop", "superlink", "executor", "run")
    files = "import json, os; print(json.dumps(os.listdir('/market')))"
    assert "ledger.db-wal" not in json.loads(played.python("console", files))
    played.compose("restart", "console")
    played.wait_for("the console is up again", lambda: is_healthy(played), HEALTH_DEADLINE_S)
    status = told(played, "/api/v1/status", token)
    assert (status["last_settled"], status["served"]) == (ROUNDS - 1, False)
