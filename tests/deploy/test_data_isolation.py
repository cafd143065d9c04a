"""A hostile ClientApp in the SuperNode's container finds nothing of the institution's to read."""

import json
import os
import secrets
import shutil
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from deploy.hostile_app.hostile_app import hunt
from support.containers import (
    build,
    container,
    docker,
    engine_missing,
    give_to_container,
    logs,
    network,
)
from support.records import FEATURES
from support.trainers import Authority, trainer_process

from ipfl_flower.cli.bundle import to_toml
from ipfl_flower.cli.certs import make_node_key
from ipfl_flower.cli.fleet import Fleet, environment
from ipfl_flower.cli.processes import ProcessGroup
from ipfl_flower.trainer.initial import initial_model

APP = Path(__file__).parent / "hostile_app"
IPFL = ("-c", "from ipfl_flower.cli.main import app; app()", "trainer")
TASK = "support.records:Records"
IMAGE_USER = 10001
KIT = "/run/ipfl"
DEADLINE_S = 400.0
ASK_EVERY_S = 5.0
# As in docs/reference/trainer.md.
LOCKED_DOWN = [
    *("--read-only", "--tmpfs", "/tmp", "--ipc", "none", "--pids-limit", "256"),
    *("--cap-drop", "ALL", "--security-opt", "no-new-privileges"),
]

pytestmark = [pytest.mark.containers, pytest.mark.e2e, pytest.mark.timeout(1800)]


@dataclass
class Institution:
    """The private folder of one, and what in it is marked: a name, and the mark."""

    folder: Path
    marks: dict[str, str] = field(default_factory=dict)

    def mark(self, name: str) -> str:
        self.marks[name] = f"canary-{secrets.token_hex(16)}"
        return self.marks[name]

    @property
    def file(self) -> Path:
        return self.folder / "institution.toml"


def private_institution(folder: Path) -> Institution:
    """Make an institution whose every file holds a mark of its own."""
    folder.mkdir(mode=0o700)
    alder = Institution(folder)
    rng = np.random.default_rng(1)
    rows = rng.normal(size=(120, FEATURES))
    data = folder / f"{alder.mark('name of the data')}.csv"
    lines = [f"{alder.mark('a patient')},0.1,0.2,0.3,0.4,1"]
    lines += [f"patient,{','.join(map(str, row))},{int(row.sum() > 0)}" for row in rows]
    data.write_text("\n".join(lines))
    alder.file.write_text(
        f"# {alder.mark('institution.toml')}\n"
        'name = "alder"\nstate_dir = "state"\ndevice = "cpu"\n'
        "[terms]\ncost = 0.05\neagerness = 6000.0\n"
        "[training]\niterations = 20\nbatch_size = 16\nlearning_rate = 0.2\n"
        f"[task]\nname = {json.dumps(TASK)}\nfile = {json.dumps(str(data))}\n"
    )
    receipts = folder / "state" / "receipts"
    receipts.mkdir(parents=True)
    (receipts.parent / "notes").write_text(alder.mark("state"))
    (receipts / "notes").write_text(alder.mark("receipts"))
    return alder


@pytest.fixture(scope="module")
def image():
    """Build the SuperNode's image."""
    missing = engine_missing()
    if missing is not None:
        pytest.skip(missing)
    return build("supernode")


@dataclass
class Hunt:
    """What came of it: of the honest round, and the hunter's report; and of the control."""

    alder: Institution
    theta0: dict
    arrays: dict
    metrics: dict
    report: dict
    control: set[str]


@pytest.fixture(scope="module")
def hunted(image, tmp_path_factory):
    """Run the hostile app on a market of one institution, as an operator would."""
    folder = tmp_path_factory.mktemp("isolation")
    alder = private_institution(folder / "alder")
    in_memory = alder.mark("environment")
    theta0 = initial_model({"name": TASK, "file": "not read"}, 1)
    np.savez(folder / "initial.npz", **theta0)
    outcome = folder / "outcome.json"
    settings = folder / "settings.toml"
    settings.write_text(
        to_toml({"initial-model": str(folder / "initial.npz"), "outcome": str(outcome)})
    )
    with ExitStack() as stack:
        name, host = stack.enter_context(network())
        group = ProcessGroup(folder / "logs", environment(folder / "flower"))
        fleet = Fleet(folder, stack.enter_context(group), folder, fleet_host=host)
        fleet.start_superlink()
        authority = Authority(folder / "authority", host)
        own, bridge = authority.issue("trainer"), authority.issue("bridge")
        trainer = stack.enter_context(
            trainer_process(
                alder.file,
                *(f"--listen={host}:0", f"--certificate={own.certificate}"),
                *(f"--key={own.key}", f"--client-ca={own.ca}"),
                command=IPFL,
                IPFL_NOTE=in_memory,
            )
        )
        kit = folder / "kit"
        fleet.flower.register("alder", make_node_key(kit / "node.key"))
        for source, target in (
            *((fleet.ca, "superlink-ca.pem"), (bridge.ca, "trainer-ca.pem")),
            *((bridge.certificate, "bridge.pem"), (bridge.key, "bridge.key")),
        ):
            shutil.copy(source, kit / target)
        supernode = stack.enter_context(
            container(
                image,
                [
                    *(*LOCKED_DOWN, "--network", name, "--volume", f"{kit}:{KIT}:ro"),
                    *("--entrypoint", "flower-supernode"),
                    *give_to_container(kit, IMAGE_USER),
                ],
                [
                    *("--superlink", fleet.fleet_address),
                    *("--root-certificates", f"{KIT}/superlink-ca.pem"),
                    *("--auth-supernode-private-key", f"{KIT}/node.key", "--node-config"),
                    node_config(trainer.address),
                ],
            )
        )
        run = fleet.flower.submit(APP, settings)
        wait_for(outcome, fleet, run, supernode)
        control = {
            *hunt.read_everything(str(folder))["canaries"],
            *hunt.read_processes([str(trainer.process.pid)])["canaries"],
        }
    return Hunt(alder, theta0, **json.loads(outcome.read_text()), control=control)


def node_config(trainer: str) -> str:
    files = {"ca": "trainer-ca.pem", "certificate": "bridge.pem", "key": "bridge.key"}
    tls = (f'trainer-{name}="{KIT}/{file}"' for name, file in files.items())
    return " ".join([f'trainer="{trainer}"', *tls])


def wait_for(file, fleet, run, supernode):
    """Wait for a file of the run's, as long as the run goes on."""
    end = time.monotonic() + DEADLINE_S
    ask = time.monotonic() + ASK_EVERY_S
    status = "running"
    while not file.exists() and not status.startswith("finished"):
        said = f"{fleet.flower.run_log(run)}\n{logs(supernode)}" if ask > end else ""
        assert time.monotonic() < end, said
        if time.monotonic() > ask:
            status, ask = fleet.flower.run_status(run), time.monotonic() + ASK_EVERY_S
        time.sleep(0.1)
    assert file.exists(), f"{status}: {fleet.flower.run_log(run)}\n{logs(supernode)}"


def test_an_honest_round_goes_through_the_container(hunted):
    arrays = {name: np.array(value) for name, value in hunted.arrays.items()}
    assert arrays.keys() == hunted.theta0.keys()
    assert all(array.shape == hunted.theta0[name].shape for name, array in arrays.items())
    assert not np.allclose(arrays["weight"], hunted.theta0["weight"])
    assert hunted.metrics["best_round"] == 0


def test_the_same_hunter_as_the_trainers_user_finds_every_mark(hunted):
    assert hunted.control == set(hunted.alder.marks.values())
    assert len(hunted.control) == 6


def test_the_same_hunter_finds_them_in_a_container_that_mounts_the_data(image, hunted):
    search = "import hunt, json; print(json.dumps(hunt.read_everything('/')))"
    printed = docker(
        *("run", "--rm", *LOCKED_DOWN, "--user", f"{os.geteuid()}:{os.getegid()}"),
        *("--volume", f"{hunted.alder.folder}:/data:ro", "--env", "PYTHONPATH=/hunter"),
        *("--volume", f"{Path(hunt.__file__).parent}:/hunter:ro"),
        *("--entrypoint", "python", image, "-c", search),
    )
    on_disk = {mark for name, mark in hunted.alder.marks.items() if name != "environment"}
    assert set(json.loads(printed)["canaries"]) == on_disk


def test_it_finds_no_mark_anywhere(hunted):
    report = hunted.report
    assert report["files"]["canaries"] == []
    assert report["processes"]["canaries"] == []
    assert report["self"]["canaries"] == []
    assert report["trainer"]["canaries"] == []
    # And it did look.
    assert report["files"]["read"] > 1000
    assert report["files"]["bytes"] > 100 << 20
    assert "/proc/1/environ" in report["processes"]["read"]  # the SuperNode's
    assert report["trainer"]["bytes"] > 0


def test_nothing_is_mounted_but_keys_and_what_the_engine_writes(hunted):
    mounts = hunted.report["mounts"]
    engine = ["/etc/hostname", "/etc/hosts", "/etc/resolv.conf"]
    kit = ["bridge.key", "bridge.pem", "node.key", "node.key.pub"]
    kit += ["superlink-ca.pem", "trainer-ca.pem"]
    assert mounts["places"] == [*engine, KIT]
    assert mounts["files"] == [*engine, *(f"{KIT}/{name}" for name in kit)]
    assert hunted.report["files"]["devices"] == []
    assert all(path.startswith("/tmp/") for path in hunted.report["files"]["sockets"])
    assert hunted.report["processes"]["other_roots"] == []


def test_it_writes_to_its_tmpfs_alone(hunted):
    assert hunted.report["mounts"]["root"] == "ro"
    writable = hunted.report["writable"]
    assert "/tmp" in writable
    outside = {path for path in writable if path != "/tmp" and not path.startswith("/tmp/")}
    assert outside <= {"/dev/mqueue"}  # the container's own, of the kernel's memory


def test_it_is_nobody_in_particular(hunted):
    me = hunted.report["self"]
    assert me["uid"] != 0
    assert me["groups"]
    assert 0 not in me["groups"]
    assert me["status"] == {"CapEff": 0, "CapPrm": 0, "CapBnd": 0, "NoNewPrivs": 1}


def test_there_is_nothing_to_train_with(hunted):
    assert hunted.report["imports"] == []


def test_the_trainer_answers_what_it_offers_and_refuses_the_rest(hunted):
    raw, fits = hunted.report["trainer"]["raw"], hunted.report["trainer"]["fits"]
    assert raw["OK"] > 0  # Describe, and health
    assert raw["UNIMPLEMENTED"] >= 5 * 9
    assert fits["OK"] > 0
    assert fits["INVALID_ARGUMENT"] > 0
    assert fits.keys() <= {"OK", "INVALID_ARGUMENT", "FAILED_PRECONDITION"}
