"""A market's figures in trackers, read back with the trackers' own libraries."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from support import console_market as cm
from typer.testing import CliRunner

from ipfl_flower.cli.main import cli
from ipfl_flower.cli.processes import LaunchError
from ipfl_flower.cli.track import Following, make_tracker
from ipfl_flower.ledger import MICRO, Ledger

pytestmark = [
    pytest.mark.timeout(300),
    # Of SQLAlchemy 2.1, about what MLflow's own models do.
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated"),
]
SETTLED = (0, 1, 3, 4)  # round 2 is abandoned, 5 goes on
START_S = 120.0


@pytest.fixture(scope="module")
def ledger(tmp_path_factory):
    file = tmp_path_factory.mktemp("market") / "ledger.db"
    with Ledger.open(file) as book:
        cm.play(book)
    return file


@pytest.fixture(scope="module", params=["tensorboard", "mlflow"])
def kind(request):
    pytest.importorskip(
        {"tensorboard": "tensorboardX", "mlflow": "mlflow"}[request.param],
        reason=f"pip install 'ipfl-flower[{request.param}]'",
    )
    return request.param


@pytest.fixture(scope="module")
def tracked(ledger, kind, tmp_path_factory):
    """Give a folder in which the ledger has been tracked, only to be read."""
    folder = tmp_path_factory.mktemp(kind)
    assert track(ledger, kind, folder) == len(SETTLED)
    return folder


def track(ledger, kind, folder):
    """Track a ledger once; return how many rounds were written."""
    tracker = make_tracker(kind, folder, None, "ipfl")
    try:
        with Ledger.open(ledger, create=False) as book:
            following = Following(book, tracker)
            following.write()
            return following.rounds
    finally:
        tracker.close()


def read(kind, folder):
    """Return every figure as a list of (whose, name, round, value), in no order."""
    return {"tensorboard": read_tensorboard, "mlflow": read_mlflow}[kind](folder)


def read_tensorboard(folder):
    from tensorboardX.proto.event_pb2 import Event  # noqa: PLC0415

    from ipfl_flower.cli.tracking.tensorboard import _records  # noqa: PLC0415

    found = []
    for file in folder.glob("*/*/*tfevents*"):
        for record in _records(file.read_bytes()):
            event = Event.FromString(record)
            for value in event.summary.value:
                name = value.tag.rpartition("/")[2]
                found.append((file.parent.name, name, event.step, value.simple_value))
    return found


def client(folder):
    from mlflow import MlflowClient  # noqa: PLC0415

    return MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")


def runs(folder):
    there = client(folder)
    return there.search_runs([there.get_experiment_by_name("ipfl").experiment_id])


def read_mlflow(folder):
    found = []
    for run in runs(folder):
        parent = run.data.tags.get("mlflow.parentRunId")
        for name in run.data.metrics:
            for item in client(folder).get_metric_history(run.info.run_id, name):
                whose = "market" if parent is None else run.data.tags["ipfl.key"].rsplit("/")[-1]
                found.append((whose, name, item.step, item.value))
    return found


def test_every_settled_round_is_there_once_with_the_ledgers_numbers(ledger, kind, tracked):
    found = read(kind, tracked)
    figures = {(whose, name, step): value for whose, name, step, value in found}
    assert len(found) == len(figures)
    assert {step for whose, _, step in figures if whose == "market"} == set(SETTLED)
    with Ledger.open(ledger, create=False) as book:
        summaries = {item.number: item for item in book.rounds()}
        for number in SETTLED:
            summary = summaries[number]
            market = {name: figures["market", name, number] for name in ("welfare", "volume")}
            assert market["welfare"] == pytest.approx(summary.welfare, rel=1e-6)
            assert market["volume"] == pytest.approx(summary.volume_micro / MICRO, rel=1e-6)
            assert figures["market", "purchases", number] == summary.edges > 0
            assert 0 < figures["market", "density", number] <= 1
            settlement = book.settlement(number)
            place = settlement.participants.index(cm.ALDER)
            alder = "0-alder" if kind == "tensorboard" else "0"
            for name, expected in (
                ("utility", settlement.clearing.utilities[place]),
                ("net", settlement.clearing.net[place] / MICRO),
                ("accuracy", cm.metrics(number, cm.ALDER)["test_accuracy"]),
                ("best_accuracy", cm.metrics(number, cm.ALDER)["best_test_accuracy"]),
            ):
                assert figures[alder, name, number] == pytest.approx(expected, rel=1e-5, abs=1e-6)


def test_an_institution_that_shares_no_metrics_has_its_money_alone(kind, tracked):
    oak = f"{cm.OAK}-oak" if kind == "tensorboard" else str(cm.OAK)
    names = {name for whose, name, *_ in read(kind, tracked) if whose == oak}
    assert names == {"utility", "gain", "net"}


def test_tracking_again_adds_nothing(ledger, kind, tracked):
    found = sorted(read(kind, tracked))
    files = sorted(tracked.rglob("*"))
    assert track(ledger, kind, tracked) == len(SETTLED)
    assert sorted(read(kind, tracked)) == found
    assert sorted(tracked.rglob("*")) == files


def test_only_what_is_new_is_added_and_the_end_is_said(kind, tmp_path):
    with Ledger.open(tmp_path / "ledger.db") as book:
        cm.play(book, rounds=1)
        tracker = make_tracker(kind, tmp_path / "out", None, "ipfl")
        following = Following(book, tracker)
        assert following.write() == 1
        assert following.write() == 0
        book.log_event("started", "Flower run 7")
        assert states(kind, tmp_path / "out") == {"RUNNING"}
        book.abandon(1, "stopped")
        book.log_event("finished", "1 rounds")
        assert following.write() == 0
        assert states(kind, tmp_path / "out") == {"FINISHED"}
        book.log_event("started", "Flower run 8")
        following.write()
        tracker.close()
    assert states(kind, tmp_path / "out") == {"RUNNING"}
    assert len(read(kind, tmp_path / "out")) == len(set(read(kind, tmp_path / "out"))) > 0


def states(kind, folder):
    """Return what the runs say of themselves; TensorBoard has none, so that any is right."""
    if kind == "tensorboard":
        return AnyOf()
    return {run.info.status for run in runs(folder)}


class AnyOf(set):
    def __eq__(self, other):
        return bool(other)

    __hash__ = None


def test_a_file_that_a_crash_cut_off_is_gone_on_from(ledger, tmp_path):
    pytest.importorskip("tensorboardX", reason="pip install 'ipfl-flower[tensorboard]'")
    track(ledger, "tensorboard", tmp_path)
    whole = sorted(read_tensorboard(tmp_path))
    (file,) = tmp_path.glob("*/market/*tfevents*")
    file.write_bytes(file.read_bytes()[:-7])
    assert len(read_tensorboard(tmp_path)) == len(whole) - 1
    track(ledger, "tensorboard", tmp_path)
    assert sorted(read_tensorboard(tmp_path)) == whole


def test_names_choose_no_folder(tmp_path):
    pytest.importorskip("tensorboardX", reason="pip install 'ipfl-flower[tensorboard]'")
    from ipfl_flower.cli.tracking.figures import Institution  # noqa: PLC0415
    from ipfl_flower.cli.tracking.tensorboard import _name  # noqa: PLC0415

    names = [_name(Institution(i, name)) for i, name in enumerate(("../../x", "market", "é" * 200))]
    assert names[:2] == ["0-______x", "1-market"]
    for name in names:
        assert (tmp_path / name).resolve().parent == tmp_path
        (tmp_path / name).mkdir()


@pytest.mark.parametrize("kind", ["mlflow"], indirect=True)
def test_mlflow_has_the_settings_and_a_run_below_it_for_each_institution(ledger, tracked):
    found = {run.info.run_name: run for run in runs(tracked)}
    with Ledger.open(ledger, create=False) as book:
        market = found.pop(f"market {book.market[:16]}")
        assert market.data.params == {name: str(item) for name, item in book.settings.items()}
        assert market.data.tags["ipfl.market"] == book.market
    assert sorted(found) == sorted(cm.NAMES)
    for run in found.values():
        assert run.data.tags["mlflow.parentRunId"] == market.info.run_id


def test_a_password_is_not_said():
    from ipfl_flower.cli.tracking.mlflow import _without_password  # noqa: PLC0415

    assert _without_password("https://me:secret@host:5000/x") == "https://host:5000/x"
    assert _without_password("sqlite:////a/b.db") == "sqlite:////a/b.db"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--to", "tensorboard"], "give --folder"),
        (["--to", "mlflow"], "give --folder"),
        (["--to", "mlflow", "--folder", "x", "--uri", "http://y"], "give --folder"),
    ],
)
def test_options_that_do_not_go_together_are_said(ledger, options, said):
    done = CliRunner().invoke(cli, ["track", str(ledger), *options])
    assert isinstance(done.exception, LaunchError)
    assert said in str(done.exception)


@pytest.mark.parametrize(
    ("kind", "module"), [("tensorboard", "tensorboardX"), ("mlflow", "mlflow")]
)
def test_a_missing_library_is_said_with_what_to_type(ledger, tmp_path, monkeypatch, kind, module):
    monkeypatch.setitem(sys.modules, module, None)
    done = CliRunner().invoke(
        cli, ["track", str(ledger), "--to", kind, "--folder", str(tmp_path / "out")]
    )
    assert isinstance(done.exception, LaunchError)
    assert f"pip install 'ipfl-flower[{kind}]'" in str(done.exception)
    assert not (tmp_path / "out").exists()


def test_a_market_without_a_settled_round_is_said(tmp_path):
    pytest.importorskip("tensorboardX", reason="pip install 'ipfl-flower[tensorboard]'")
    Ledger.open(tmp_path / "ledger.db").close()
    options = ["--to", "tensorboard", "--folder", str(tmp_path / "out")]
    done = CliRunner().invoke(cli, ["track", str(tmp_path / "ledger.db"), *options])
    assert "no round is settled yet" in str(done.exception)


def test_follow_writes_what_is_settled_meanwhile_until_sigterm(kind, tmp_path):
    with Ledger.open(tmp_path / "ledger.db") as book:
        cm.play(book, rounds=1)
        command = [sys.executable, "-c", "from ipfl_flower.cli.main import app; app()", "track"]
        command += [str(tmp_path / "ledger.db"), "--to", kind, "--folder", str(tmp_path / "out")]
        with subprocess.Popen(
            [*command, "--follow"],
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "IPFL_LOG_FORMAT": "json"},
        ) as tracking:
            try:
                line = json.loads(tracking.stderr.readline())
                assert line["message"].startswith("1 rounds of")
                assert line["market"] == book.market[:16]
                cm.settle(book, cm.settlement(1))
                end = time.monotonic() + START_S
                while 1 not in {step for _, _, step, _ in read(kind, tmp_path / "out")}:
                    assert time.monotonic() < end
                    assert tracking.poll() is None
                    time.sleep(0.5)
                tracking.send_signal(signal.SIGTERM)
                assert tracking.wait(START_S) == 0
            finally:
                tracking.kill()
