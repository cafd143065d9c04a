"""Runs one case on a fleet of its own, and reads what came out."""

import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import bench_model
import numpy as np

from ipfl_flower.cli.bundle import stage_app, to_toml
from ipfl_flower.cli.demo import start_nodes
from ipfl_flower.cli.fleet import Fleet, Node, environment
from ipfl_flower.cli.processes import LaunchError, ProcessGroup
from ipfl_flower.ledger import Ledger, State
from ipfl_flower.settings import Settings
from rounds_bench.cases import Case
from rounds_bench.outcome import Outcome, durations
from rounds_bench.sampler import Sampler, between

APPS = Path(__file__).parents[1] / "apps"
ROOT = Path(__file__).parents[2]
POLL_S = float(Settings.model_fields["poll_s"].default)
LOOK_EVERY_S = 0.5
# Asking Flower starts a process: only to notice a run that died without a word.
ASK_FLOWER_EVERY_S = 30.0


@dataclass(frozen=True)
class Ended:
    """What a run wrote down: the times its rounds ended, seconds of training, models that came."""

    ends: list[float]
    fit_s: list[float]
    replies: list[int]


def play(case: Case, rounds: int, folder: Path, deadline_s: float) -> Outcome:
    """Start a fleet, run the case on it and end the fleet.

    Parameters
    ----------
    case : Case
    rounds : int
        To measure; one more is played before them.
    folder : Path
        Empty; absolute.
    deadline_s : float
        Of the whole run.

    Raises
    ------
    LaunchError
        If the fleet can't be started, or the run fails or takes too long.
    """
    env = environment(folder / "flower")
    env["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(APPS)])
    names = [f"institution-{i}" for i in range(case.institutions)]
    nodes = [Node(name, write_institution(case, i, folder / name)) for i, name in enumerate(names)]
    with (
        tempfile.TemporaryDirectory(prefix="bench-") as sockets,
        ProcessGroup(folder / "logs", env) as group,
        Sampler() as sampler,
    ):
        fleet = Fleet(folder, group, Path(sockets))
        fleet.start_superlink()
        if case.system == "market":
            app, config, ended = market(case, rounds, folder)
            start_nodes(fleet, nodes, group, app)
        else:
            app, config, ended = plain(case, rounds, folder)
            for node in nodes:  # as Flower starts them, with its own executor
                group.start(f"supernode-{node.name}", fleet.node_options(node))
        (folder / "run.toml").write_text(to_toml(config), encoding="utf-8")
        run = fleet.flower.submit(app, folder / "run.toml")
        result = wait(ended, fleet, group, run, deadline_s)
    short = [number for number in result.replies if number != case.institutions]
    if short or len(result.ends) != rounds + 1:
        raise LaunchError(f"{case.title}: models that came in by round: {result.replies}")
    cpu_s, moved = between(sampler.samples, result.ends[0], result.ends[-1])
    return Outcome(
        case=case,
        rounds_s=durations(result.ends),
        fit_s=tuple(result.fit_s[1:]),
        cpu_s={role: seconds / rounds for role, seconds in cpu_s.items()},
        moved={link: amount / rounds for link, amount in moved.items()},
        peaks=dict(sampler.peaks),
        replies=tuple(result.replies),
    )


Prepared = tuple[Path, dict[str, Any], Callable[[], Ended | None]]


def plain(case: Case, rounds: int, folder: Path) -> Prepared:
    """Prepare FedAvg or the bare transport: the app, its configuration, how to see its end."""
    file = folder / "outcome.json"
    config = {
        "rounds": rounds + 1,
        "institutions": case.institutions,
        "megabytes": float(case.megabytes),
        "poll-s": POLL_S,
        "outcome": str(file),
    }

    def ended() -> Ended | None:
        if not file.exists() or not (text := file.read_text(encoding="utf-8")):
            return None
        found = json.loads(text)
        return Ended(found["ends"], found["fit_seconds"], found["replies"])

    return APPS / case.system, config, ended


def market(case: Case, rounds: int, folder: Path) -> Prepared:
    """Prepare the market; its ledger says when each round was settled."""
    theta0, ledger_file = folder / "theta0.npz", folder / "ledger.db"
    np.savez(theta0, **bench_model.arrays(case.megabytes))
    config = {
        "preset": "recommended",
        "rounds": rounds + 1,
        "institutions-min": case.institutions,
        "quorum": case.institutions,
        "ledger": str(ledger_file),
        "models-dir": str(folder / "models"),
        "initial-model": str(theta0),
    }

    def ended() -> Ended | None:
        if not ledger_file.exists():
            return None
        with Ledger.open(str(ledger_file), create=False) as ledger:
            last = {event.kind: event.text for event in ledger.events()}
            if reason := last.get("stopped") or last.get("died"):
                raise LaunchError(f"the market ended: {reason}")
            return read_market(ledger, folder) if "finished" in last else None

    return stage_app(folder / "app"), config, ended


def read_market(ledger: Ledger, folder: Path) -> Ended:
    """Read a market's rounds, and check that every institution was sent a centre in each."""
    ledger.export(folder / "books", "jsonl")
    lines = (folder / "books" / "transitions.jsonl").read_text(encoding="utf-8").splitlines()
    steps = [json.loads(line) for line in lines]
    ends = {step["round"]: step["at"] for step in steps if step["state"] == State.SETTLED}
    fit_s, replies = [], []
    for number in sorted(ends):
        reports = ledger.reports(number)
        replies.append(len(reports))
        fit_s.append(statistics.mean(report.metrics["fit_seconds"] for report in reports))
        buyers = ledger.settlement(number).clearing.imports.any(axis=1)
        if not buyers.all():
            raise LaunchError(
                f"round {number}: {int(buyers.sum())} of {len(buyers)} institutions bought; "
                "the others are sent no centre, and the round is no fair one"
            )
    return Ended([ends[number] for number in sorted(ends)], fit_s, replies)


def write_institution(case: Case, number: int, folder: Path) -> Path:
    """Write an institution.toml: one step at batch 1, and terms at which everybody trades."""
    folder.mkdir(mode=0o700)
    file = folder / "institution.toml"
    file.write_text(
        f'name = "{folder.name}"\nstate_dir = "state"\ndevice = "cpu"\n\n'
        "[terms]\nsamples = 100\ncost = 0.01\neagerness = 40000.0\n\n"
        "[training]\niterations = 1\nbatch_size = 1\nlearning_rate = 0.2\n\n"
        '[task]\nname = "bench_model.task:BenchTask"\n'
        f"megabytes = {float(case.megabytes)}\ninstitution = {number}\n",
        encoding="utf-8",
    )
    return file


def wait(
    ended: Callable[[], Ended | None],
    fleet: Fleet,
    group: ProcessGroup,
    run: int,
    deadline_s: float,
) -> Ended:
    """Wait until the run has written down its end."""
    end = time.monotonic() + deadline_s
    asked = time.monotonic()
    while (result := ended()) is None:
        for name, how in group.dead().items():
            raise LaunchError(f"{name} {how}")
        if time.monotonic() > end:
            raise LaunchError(f"the run did not end within {deadline_s:g} s: see --deadline-s")
        if time.monotonic() - asked > ASK_FLOWER_EVERY_S:
            asked = time.monotonic()
            try:
                status = fleet.flower.run_status(run)
            except LaunchError:  # a SuperLink under load has better things to do
                continue
            if status.startswith("finished"):
                if (result := ended()) is None:
                    raise LaunchError(f"Flower says {status}: {fleet.flower.run_log(run)}")
                break
        time.sleep(LOOK_EVERY_S)
    return result
