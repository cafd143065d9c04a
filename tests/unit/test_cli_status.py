import json
import subprocess
import sysconfig
from pathlib import Path

import pytest

from ipfl_flower.cli.status import read_status, status_lines
from ipfl_flower.ledger import Ledger, Report
from ipfl_flower.ledger.database import this_process
from ipfl_flower.market import Terms

IPFL = Path(sysconfig.get_path("scripts")) / "ipfl"


@pytest.fixture
def ledger(tmp_path):
    """A market whose first round waits for one of three institutions, at a second of our choice."""
    now = [1_000_000.0]
    with Ledger.open(tmp_path / "ledger.db", clock=lambda: now[0]) as ledger:
        ledger.now = now
        ledger.begin({"rounds": 1})
        for name in ("alder", "birch", "cedar"):
            ledger.enrol(name, name.encode())
        yield ledger


def wait_for_one(ledger):
    ledger.open_round(0, [0, 1, 2], 60.0, 2)
    ledger.collect(0)
    ledger.report(Report(0, 0, Terms(10, 1.0, 1.0), "digest", leaving=False, metrics={}))
    ledger.refuse(0, 2, "tensor 'w' is missing")


def test_before_the_first_round_it_says_so(ledger):
    assert status_lines(read_status(ledger)) == ["no round has begun; nobody serves it now"]


def test_it_says_whom_a_round_waits_for_and_until_when(ledger):
    wait_for_one(ledger)
    status = read_status(ledger)
    assert (status["waiting"], status["until"]) == (["birch"], "1970-01-12T13:47:40+00:00")
    assert status_lines(status) == [
        "round 0: COLLECTING, 1 of 3 replied, quorum 2",
        "waiting for birch until 1970-01-12T13:47:40+00:00",
        "cedar: tensor 'w' is missing",
        "nobody serves it now",
    ]


def test_it_says_who_serves_the_market(ledger, tmp_path):
    wait_for_one(ledger)
    with Ledger.open(tmp_path / "ledger.db", serve=True):
        *_, last = status_lines(read_status(ledger))
        assert last == f"served by {this_process()}"


def test_a_resumed_round_waits_its_whole_deadline_again(ledger):
    wait_for_one(ledger)
    ledger.now[0] += 3600.0
    ledger.log_event("resumed", "at round 0")
    assert read_status(ledger)["until"] == "1970-01-12T14:47:40+00:00"


def test_an_abandoned_round_says_why(ledger):
    wait_for_one(ledger)
    ledger.abandon(0, "too few")
    assert "too few" in status_lines(read_status(ledger))


def test_the_command_prints_lines_and_json(ledger, tmp_path):
    wait_for_one(ledger)
    command = [IPFL, "status", tmp_path / "ledger.db"]
    assert "waiting for birch" in subprocess.check_output(command, text=True)
    assert json.loads(subprocess.check_output([*command, "--json"]))["phase"] == "COLLECTING"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "market.toml can't be read: No such file or directory"),
        ("rounds = [", "market.toml is not a TOML file"),
        ("rounds = 0", "setting rounds: Input should be greater than or equal to 1, is 0"),
        ("lambda = 1.0", "setting lambda is unknown"),
    ],
)
def test_a_bad_market_file_is_one_line(tmp_path, content, said):
    file = tmp_path / "market.toml"
    if content is not None:
        file.write_text(content)
    done = subprocess.run([IPFL, "run", file], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert said in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_reason_cannot_write_on_the_terminal(ledger):
    ledger.expel("cedar", "ümlaut\n\x1b[2Jeverything is fine")
    lines = status_lines(read_status(ledger))
    assert lines[0] == r"cedar is expelled: ümlaut\n\x1b[2Jeverything is fine"


def test_it_says_who_is_expelled(ledger):
    ledger.expel("cedar", "sold noise")
    ledger.expel("birch")
    assert status_lines(read_status(ledger)) == [
        "birch is expelled",
        "cedar is expelled: sold noise",
        "no round has begun; nobody serves it now",
    ]
    wait_for_one(ledger)
    assert read_status(ledger)["expelled"] == {"birch": "", "cedar": "sold noise"}
    assert "cedar is expelled: sold noise" in status_lines(read_status(ledger))
