"""operator.yml and institution.yml as on hosts of their own: what their first lines say, done."""

import re
import shutil
import socket
import tomllib
from contextlib import ExitStack
from pathlib import Path

import pytest
import yaml
from support.compose import COMPOSE, Project, project
from support.containers import TAG, build, docker, engine_missing, network

from ipfl_flower.cli.bundle import to_toml

# Two that have use for each other's models.
NAMES = ("alder", "cedar")
MARKET_DEADLINE_S = 600.0

pytestmark = [pytest.mark.containers, pytest.mark.e2e, pytest.mark.timeout(2400)]


@pytest.fixture(scope="module")
def host():
    """Build the images; give the address at which containers reach this machine."""
    missing = engine_missing()
    if missing is not None:
        pytest.skip(missing)
    for image in ("server", "supernode", "trainer"):
        build(image)
    with network() as (_, address):
        yield address


def test_an_operator_and_two_institutions_on_hosts_of_their_own(host, tmp_path):
    port = free_port(host)
    tmp_path.chmod(0o755)
    desk = open_folder(tmp_path / "operator")
    write_market(desk)
    with ExitStack() as stack:
        operator = stack.enter_context(
            project(
                "operator.yml",
                IPFL_HOST=host,
                IPFL_PORT=str(port),
                IPFL_PUBLISH=f"{host}:{port}",
                IPFL_OPERATOR=str(desk),
            )
        )
        operator.compose("run", "--rm", "certificates")
        operator.up("superlink", "executor")
        institutions = [stack.enter_context(institution(name, tmp_path / name)) for name in NAMES]
        for name, there in zip(NAMES, institutions, strict=True):
            join(operator, desk, name, there, tmp_path / name / "kit")
        operator.up("run")
        operator.wait_for("the market has ended", lambda: ended(operator), MARKET_DEADLINE_S)
        said = operator.compose("run", "--rm", "-T", "ledger", "verify", "/market/ledger.db")
        assert "verified: 2 rounds" in said
        said = operator.compose(
            "run", "--rm", "-T", "ledger", "statement", "/market/ledger.db", "cedar"
        )
        assert "alder" in said
        assert_locked_down(operator, *institutions)


def institution(name: str, folder: Path):
    """Make an institution's folders, and give its project."""
    open_folder(folder)
    data = open_folder(folder / "data")
    shutil.copy(COMPOSE / "demo" / f"{name}.toml", data / "institution.toml")
    kit = open_folder(folder / "kit")
    return project(
        "institution.yml",
        IPFL_NAME=name,
        IPFL_DATA=str(data),
        IPFL_KIT=str(kit),
        COMPOSE_PROFILES="cpu",
    )


def join(operator: Project, desk: Path, name: str, there: Project, kit: Path) -> None:
    """Carry the request to the operator and the kit back, and start."""
    said = there.compose("run", "--rm", "-T", "join-request")
    [fingerprint] = re.findall(r"SHA256:\S+", said)
    shutil.move(kit / f"{name}.request.json", desk)
    request, answer = f"/operator/{name}.request.json", f"{name}.kit.json"
    said = operator.compose(
        *("run", "--rm", "-T", "admit", request, "--kit", f"/operator/{answer}"),
        *("--fingerprint", fingerprint),
    )
    [key] = re.findall(r"operator key, .*: ([0-9a-f]{64})", said)
    shutil.move(desk / answer, kit)
    (kit / answer).chmod(0o644)
    there.compose("run", "--rm", "join", f"/kit/{answer}", "--operator", key)
    there.up()


def write_market(desk: Path) -> None:
    """Write market.toml from the example, of two rounds, and θ⁰ beside it."""
    settings = tomllib.loads((COMPOSE / "operator" / "market.toml").read_text())
    short = {"rounds": 2, "deadline-s": 200, "absence-s": 60, "join-deadline-s": 300}
    (desk / "market.toml").write_text(to_toml(settings | short))
    docker(
        *("run", "--rm", "--network", "none", "--volume", f"{desk}:/operator"),
        *("--entrypoint", "python", f"ipfl-trainer:{TAG}", "-m", "ipfl_flower.trainer.initial"),
        *("--task", "digits", "--seed", "1", "--out", "/operator/theta0.npz"),
    )


def assert_locked_down(*projects: Project) -> None:
    published = set()
    for there in projects:
        for service, item in there.containers().items():
            host = item["HostConfig"]
            assert host["ReadonlyRootfs"], service
            assert host["CapDrop"] == ["ALL"], service
            assert item["Config"]["User"] == "10001:10001", service
            ports = item["NetworkSettings"]["Ports"] or {}
            published |= {(service, port) for port, bindings in ports.items() if bindings}
    assert published == {("superlink", "9092/tcp")}


def ended(operator: Project) -> bool:
    state = operator.container("run")["State"]
    return state["Status"] == "exited" and state["ExitCode"] == 0


def open_folder(path: Path) -> Path:
    """Make a folder that the images' user may write in, whoever we are."""
    path.mkdir()
    path.chmod(0o777)
    return path


def free_port(host: str) -> int:
    with socket.create_server((host, 0)) as server:
        return server.getsockname()[1]


def test_the_trainer_gets_gpus_by_the_profile_alone(host, tmp_path):
    with institution("alder", tmp_path / "alder") as there:
        said = there.compose("--profile", "cpu", "--profile", "gpu", "config")
    services = yaml.safe_load(said)["services"]
    assert services["trainer"]["profiles"] == ["cpu"]
    assert services["trainer-gpu"]["profiles"] == ["gpu"]
    [device] = services["trainer-gpu"]["deploy"]["resources"]["reservations"]["devices"]
    assert device == {"driver": "nvidia", "count": 1, "capabilities": ["gpu"]}
    assert [name for name, service in services.items() if "deploy" in service] == ["trainer-gpu"]
