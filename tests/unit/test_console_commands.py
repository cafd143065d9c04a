"""The console's tokens, and the commands that show a market."""

import json
import stat
import subprocess
import sys

import pytest
from support import console_clients as clients
from support import console_market as cm
from support.console_clients import ALDER, OPERATOR

from ipfl_flower.console.access import ConsoleError, Viewer, add_token, digest_of, read_gate
from ipfl_flower.ledger import Ledger

IPFL = [sys.executable, "-c", "from ipfl_flower.cli.main import app; app()"]

file = clients.file


def ipfl(*arguments):
    done = subprocess.run([*IPFL, *arguments], capture_output=True, text=True, check=False)
    return done.returncode, done.stdout, done.stderr


def test_a_token_is_printed_once_and_its_hash_kept(tmp_path):
    file = tmp_path / "tokens"
    code, token, _ = ipfl("console", "token", "alder", "--tokens", file)
    add_token(file, "elm & sons")
    assert code == 0
    assert token.strip() not in file.read_text()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    (tmp_path / "operator").write_text(OPERATOR)
    gate = read_gate(tmp_path / "operator", file)
    assert gate.viewer_of(token.strip()) == Viewer("alder")
    assert gate.viewer_of(OPERATOR).is_operator
    assert gate.viewer_of("é\ud800") is None
    assert not gate.is_open


def test_a_token_is_added_after_a_last_line_that_has_no_end(tmp_path):
    file = tmp_path / "tokens"
    file.write_text(f"{digest_of(ALDER)}  alder")
    (tmp_path / "operator").write_text(OPERATOR)
    token = add_token(file, "birch")
    gate = read_gate(tmp_path / "operator", file)
    assert (gate.viewer_of(ALDER), gate.viewer_of(token)) == (Viewer("alder"), Viewer("birch"))


@pytest.mark.parametrize(
    ("operator", "tokens", "said"),
    [
        ("short", None, "must hold one token of 32 characters or more"),
        ("two words that are long", None, "must hold one token"),
        ("x" * 32, "alder: secret", "line 1: not a SHA-256, two spaces and a name"),
        (None, f"{'0' * 64}  alder", "give --operator-token-file, too"),
    ],
)
def test_files_of_tokens_that_make_no_sense_are_refused(tmp_path, operator, tokens, said):
    paths = []
    for name, content in (("operator", operator), ("tokens", tokens)):
        paths.append(None if content is None else tmp_path / name)
        if content is not None:
            paths[-1].write_text(content)
    with pytest.raises(ConsoleError, match=said):
        read_gate(*paths)


def test_files_of_tokens_that_can_not_be_read_are_named(tmp_path):
    with pytest.raises(ConsoleError, match="none can't be read: No such file"):
        read_gate(tmp_path / "none", None)
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    with pytest.raises(ConsoleError, match="binary is not a text file"):
        read_gate(tmp_path / "binary", None)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--host", "0.0.0.0"], "give --operator-token-file"),
        (["--host", "market.example"], "give --operator-token-file"),
        (["--certificate", "cert.pem"], "--certificate and --key go together"),
        (["--operator-token-file", "/none"], "/none can't be read"),
    ],
)
def test_a_console_that_would_show_everything_to_everybody_does_not_start(file, arguments, said):
    code, _, error = ipfl("console", file, *arguments)
    assert (code, error.count("\n")) == (1, 1)
    assert said in error


def test_the_market_of_a_round_is_printed_in_80_columns(file):
    code, out, _ = ipfl("market", "show", file, "--round", "0")
    assert code == 0
    assert max(map(len, out.splitlines())) <= 80
    assert out.startswith("round 0: DELIVERED, 23 purchases, 11.627636 credits")
    code, out, _ = ipfl("market", "show", file, "--json")
    graph = json.loads(out)
    assert (code, graph["round"], len(graph["edges"])) == (0, 4, 6)
    code, out, error = ipfl("market", "show", file, "--round", "6")
    assert (code, out) == (1, "")
    assert error == "ipfl: there is no round 6: the ledger has 6 rounds, from 0\n"


def test_why_a_round_was_abandoned_can_not_speak_to_the_terminal(tmp_path):
    file = tmp_path / "ledger.db"
    with Ledger.open(file) as ledger:
        cm.begin(ledger)
        ledger.open_round(0, range(9), 10.0, 2)
        ledger.abandon(0, "stopped\x1b[2J")
    code, out, _ = ipfl("market", "show", file, "--round", "0")
    assert (code, "\x1b" in out, "stopped\\x1b[2J" in out) == (0, False, True)


def test_a_console_that_others_reach_without_tls_says_so(file, tmp_path):
    (tmp_path / "operator").write_text(OPERATOR)
    command = [*IPFL, "console", file, "--host", "0.0.0.0", "--port", "0"]
    command += ["--operator-token-file", tmp_path / "operator"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as console:
        try:
            said = console.stderr.readline()
        finally:
            console.terminate()
    assert said.startswith("WARNING")
    assert "without TLS" in said


def test_status_is_printed_again_when_it_changes(tmp_path):
    file = tmp_path / "ledger.db"
    with Ledger.open(file) as ledger:
        cm.play(ledger, rounds=1)
        command = [*IPFL, "status", file, "--watch", "--json"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as watch:
            try:
                assert json.loads(watch.stdout.readline())["waiting"] == ["birch"]
                ledger.refuse(1, cm.BIRCH, "it is away")
                assert json.loads(watch.stdout.readline())["failed"] == {"birch": "it is away"}
            finally:
                watch.terminate()
