"""What lies in the folder that a command is called in is never run."""

import subprocess
import sys
from pathlib import Path

import pytest
from support.trainers import institution_file

from ipfl_flower.cli.doctoring.finding import NotKnownError
from ipfl_flower.cli.doctoring.fleet import ask_fleet
from ipfl_flower.cli.flower import FlowerCli
from ipfl_flower.cli.processes import LaunchError, ProcessGroup, free_port
from ipfl_flower.cli.supernode import Executor

ROOT = Path(__file__).parents[2]


@pytest.fixture
def trap(tmp_path, monkeypatch):
    """Stand in a folder with files named as the modules that our programs import first."""
    folder = tmp_path / "trap"
    folder.mkdir()
    for name in ("argparse", "click", "json", "torch"):
        (folder / f"{name}.py").write_text(
            f"open({str(folder / 'ran')!r}, 'w'); raise SystemExit(99)"
        )
    monkeypatch.chdir(folder)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    return folder


def test_who_asks_a_superlink_for_nodes_runs_nothing_of_it(trap, tmp_path, monkeypatch):
    monkeypatch.setenv("FLWR_HOME", str(tmp_path / "flwr"))
    with (
        ProcessGroup(tmp_path / "logs", {"PYTHONPATH": str(ROOT)}) as group,
        pytest.raises(LaunchError),
    ):
        FlowerCli(group, "market").nodes()
    assert not (trap / "ran").exists()


def test_the_executor_runs_nothing_of_it(trap, tmp_path, capsys):
    runtime = f"127.0.0.1:{free_port()}"
    executor = Executor(runtime, tmp_path / "none", tmp_path, {"PYTHONPATH": str(ROOT)})
    try:
        while executor.tend() and "the executor ended" not in capsys.readouterr().err:
            pass
    finally:
        executor.end()
    assert not (trap / "ran").exists()


def test_the_trainer_runs_nothing_of_it(trap, tmp_path):
    (trap / "torch.py").unlink()
    file = institution_file(tmp_path / "alder", name="")
    command = "import sys; sys.path.remove(''); from ipfl_flower.cli.main import app; app()"
    done = subprocess.run(
        [sys.executable, "-c", command, "trainer", file],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    assert not (trap / "ran").exists()


def test_the_doctor_that_asks_a_superlink_runs_nothing_of_it(trap, tmp_path):
    with pytest.raises(NotKnownError):
        ask_fleet(f"127.0.0.1:{free_port()}", tmp_path / "ca.pem")
    assert not (trap / "ran").exists()
