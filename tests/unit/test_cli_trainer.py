"""``ipfl trainer``: the command becomes the trainer, and never loads torch itself."""

import os
import signal
import sys

import pytest
from support.trainers import institution_file, trainer_process
from typer.testing import CliRunner

from ipfl_flower.cli import trainer
from ipfl_flower.cli.main import cli
from ipfl_flower.cli.processes import LaunchError
from ipfl_flower.trainer.serve import _parser

IPFL = ("-c", "from ipfl_flower.cli.main import app; app()", "trainer")


@pytest.mark.timeout(300)
def test_it_serves_on_a_socket_beside_the_file_until_sigint(tmp_path):
    with trainer_process(institution_file(tmp_path), "--waiting-max=1", command=IPFL) as running:
        assert running.address == f"unix://{tmp_path}/trainer.sock"
        with running.client() as client:
            assert client.describe().name == "alder"
        assert running.end(signal.SIGINT) == 0


def test_every_option_reaches_the_trainer_and_has_its_default(monkeypatch):
    executed = []
    monkeypatch.setattr(os, "execv", lambda path, arguments: executed.append((path, arguments)))
    assert CliRunner().invoke(cli, ["trainer", "i.toml"]).exit_code == 0
    [(path, arguments)] = executed
    assert path == arguments[0] == sys.executable
    assert arguments[1:5] == ["-P", "-m", "ipfl_flower.trainer.serve", "i.toml"]
    own = _parser().parse_args(["i.toml"])
    assert _parser().parse_args(arguments[4:]) == own
    given = {name: value for name, value in vars(own).items() if name != "institution"}
    options = [f"--{name.replace('_', '-')}={7 if value else 'x'}" for name, value in given.items()]
    assert CliRunner().invoke(cli, ["trainer", "i.toml", *options]).exit_code == 0
    parsed = vars(_parser().parse_args(executed[1][1][4:]))
    assert {name for name in given if str(parsed[name]) in ("7", "7.0", "x")} == given.keys()


def test_without_torch_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr(trainer, "find_spec", lambda _: None)
    result = CliRunner().invoke(cli, ["trainer", "i.toml"])
    assert isinstance(result.exception, LaunchError)
    assert str(result.exception) == "the trainer needs torch: pip install 'ipfl-flower[trainer]'"
