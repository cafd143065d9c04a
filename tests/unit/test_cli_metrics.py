"""``ipfl metrics``, and its reference."""

import re
import signal
import subprocess
import sysconfig
from pathlib import Path

import httpx
import pytest
from support.ledgers import play
from support.scraping import samples

from ipfl_flower.cli.main import app
from ipfl_flower.console import reference
from ipfl_flower.ledger import Ledger

IPFL = Path(sysconfig.get_path("scripts")) / "ipfl"
PAGE = Path(__file__).parents[2] / "docs" / "reference" / "metrics.md"


@pytest.fixture
def path(tmp_path):
    with Ledger.open(tmp_path / "ledger.db") as ledger:
        play(ledger)
    return tmp_path / "ledger.db"


@pytest.fixture
def ipfl(monkeypatch, capsys):
    """Run ``ipfl metrics`` in this process: exit code, what it printed, and what it said."""

    def run(*arguments):
        monkeypatch.setattr("sys.argv", ["ipfl", "metrics", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            app()
        return ended.value.code, *capsys.readouterr()

    return run


def test_once_prints_them_verified(ipfl, path):
    code, printed, said = ipfl(path, "--once")
    assert (code, said) == (0, "")
    found = samples(printed.encode())
    assert found["ipfl_round_number",] == 3
    assert found["ipfl_ledger_verified",] == 1
    assert found["ipfl_ledger_file_bytes",] > 0


def test_they_are_served_until_the_process_is_told_to_end(path):
    command = [IPFL, "metrics", path, "--listen", "127.0.0.1:0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        said = process.stdout.readline()
        [url] = re.findall(r"http://127\.0\.0\.1:\d+/metrics", said)
        answer = httpx.get(url, timeout=30.0)
        assert answer.status_code == 200
        assert samples(answer.content)["ipfl_rounds_total", "settled"] == 2
        assert "process_resident_memory_bytes" in answer.text
        elsewhere = httpx.get(url, headers={"Host": "rebound.example"}, timeout=30.0)
        assert (elsewhere.status_code, elsewhere.text) == (421, "call it localhost\n")
        with Ledger.open(path) as ledger:
            ledger.deliver(2)
            ledger.collect(3)
        later = samples(httpx.get(url, timeout=30.0).content)
        assert later["ipfl_round_state", "COLLECTING"] == 1
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=30.0)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == 0
    assert errors == ""


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--listen", "nowhere"], "--listen: address 'nowhere' is neither"),
        (["--listen", "unix:///tmp/x"], "no Unix socket"),
        (["--listen", "192.0.2.1:9464"], "choose another --listen"),
        (["--certificates", "/does/not/exist"], "/does/not/exist is no folder"),
        (["--market", "/does/not/exist.toml"], "/does/not/exist.toml can't be read"),
    ],
)
def test_bad_input_is_one_line(ipfl, path, arguments, line):
    code, printed, said = ipfl(path, *arguments)
    assert (code, printed, said.count("\n")) == (1, "", 1)
    assert line in said


def test_a_missing_ledger_is_one_line_and_not_made(ipfl, tmp_path):
    code, _, said = ipfl(tmp_path / "none.db", "--once")
    assert (code, said.count("\n")) == (1, 1)
    assert "start a market first" in said
    assert not (tmp_path / "none.db").exists()


def test_the_reference_is_what_the_catalogue_makes():
    assert PAGE.read_text() == reference.page(), "run make docs"
