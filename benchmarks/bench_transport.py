"""A market of a given model size over a real fleet: seconds a round, memory of every process.

Usage: python benchmarks/bench_transport.py [--mb 100] [--institutions 4] [--rounds 3] [--folder D]

The fleet is the demo's (gRPC fleet API over TLS, authenticated nodes, the server app isolated); the
server app and the strategy are the real ones. The institutions do not train: their ClientApp
answers with a made-up model (transport_client.py), so what is left is transport and settlement.
Peaks are the kernel's own (VmHWM), read while a process lives.
"""

import argparse
import itertools
import json
import shutil
import sqlite3
import statistics
import tempfile
import threading
import time
from collections import defaultdict
from contextlib import closing
from pathlib import Path

import numpy as np
import psutil
from rich.console import Console

from ipfl_flower.cli.bundle import stage_app, to_toml
from ipfl_flower.cli.demo import start_nodes
from ipfl_flower.cli.fleet import Fleet, Node, environment
from ipfl_flower.cli.live import Watch
from ipfl_flower.cli.processes import ProcessGroup
from ipfl_flower.models import save_model

ROLES = {
    "flower-superlink": "superlink",
    "flower-superexec": "superexec",
    "flwr-serverapp": "serverapp",
    "flower-supernode": "supernode",
    "flwr-clientapp": "clientapp",
}
LOOK_EVERY_S = 0.02
DEADLINE_S = 1800.0


class Sampler(threading.Thread):
    """Reads peak memory and CPU time of all our descendants, by role, until told to stop."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.peak_mib: dict[str, dict[int, float]] = defaultdict(dict)
        self.cpu_s: dict[str, dict[int, float]] = defaultdict(dict)
        self._done = threading.Event()

    def run(self) -> None:
        """Sample until `stop` is called."""
        known: dict[int, str] = {}
        listed = 0.0
        while not self._done.wait(LOOK_EVERY_S):
            if time.monotonic() - listed > 10 * LOOK_EVERY_S:
                listed = time.monotonic()
                for child in psutil.Process().children(recursive=True):
                    if known.get(child.pid, "") == "":
                        known[child.pid] = role_of(child)
            for pid, role in known.items():
                if role:
                    self._sample(pid, role)

    def stop(self) -> None:
        """Stop, and wait until the last sample is taken."""
        self._done.set()
        self.join()

    def _sample(self, pid: int, role: str) -> None:
        try:
            status = Path(f"/proc/{pid}/status").read_text()
            times = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return
        for line in status.splitlines():
            if line.startswith("VmHWM:"):
                self.peak_mib[role][pid] = int(line.split()[1]) / 1024
        self.cpu_s[role][pid] = (int(times[11]) + int(times[12])) / 100


def role_of(process: psutil.Process) -> str:
    """Return what a process is, "" if it is none of the fleet (yet)."""
    try:
        words = [Path(word).name for word in process.cmdline()[:3]]
    except psutil.Error:
        return ""
    return next((ROLES[word] for word in words if word in ROLES), "")


def write_theta0(path: Path, mb: float, largest: float) -> None:
    """Write a float32 model of `mb` megabytes, one tensor of which has the share `largest`."""
    rng = np.random.default_rng(0)
    columns = 1024
    rows = max(2, round(mb * 1e6 / 4 / columns))
    first = max(1, round(rows * largest))
    rest = np.array_split(np.arange(rows - first), max(1, round((rows - first) / 2048)))
    sizes = [first, *(len(part) for part in rest if len(part))]
    save_model(
        path,
        {f"layer{k}.weight": rng.random((n, columns), np.float32) for k, n in enumerate(sizes)},
    )


def market(given: argparse.Namespace, folder: Path) -> dict[str, object]:
    """Return the market's settings."""
    return {
        "preset": "recommended",
        "rounds": given.rounds,
        "distance-weight": 0.1,
        "deadline-s": DEADLINE_S,
        "institutions-min": given.institutions,
        "quorum": given.institutions,
        "ledger": str(folder / "ledger.db"),
        "models-dir": str(folder / "models"),
        "initial-model": str(folder / "theta0.npz"),
    }


def stage(folder: Path) -> Path:
    """Stage the app with our own ClientApp in place of the trainer's."""
    stage_app(folder)
    client = Path(__file__).with_name("transport_client.py")
    shutil.copyfile(client, folder / "client_app" / "main.py")
    return folder


def play(given: argparse.Namespace, folder: Path, group: ProcessGroup) -> Sampler:
    """Start the fleet, play the market, and return what was sampled meanwhile."""
    write_theta0(folder / "theta0.npz", given.mb, given.largest)
    nodes = []
    for i in range(given.institutions):
        file = folder / f"institution{i}.toml"
        file.write_text(to_toml({"theta0": str(folder / "theta0.npz"), "seed": i + 1}))
        nodes.append(Node(f"bench{i}", file))
    sampler = Sampler()
    sampler.start()
    fleet = Fleet(folder, group)
    fleet.start_superlink()
    start_nodes(fleet, nodes, group)
    market_file = folder / "market.toml"
    market_file.write_text(to_toml(market(given, folder)))
    run = fleet.flower.submit(stage(folder / "app"), market_file)
    # Flower's CLI is not to be relied on while the SuperLink's database is under load.
    console, ledger = Console(stderr=True), str(folder / "ledger.db")
    watch = Watch(ledger, group, fleet.flower, given.rounds, console, patience_s=DEADLINE_S)
    watch.follow(run)
    sampler.stop()
    return sampler


def read_times(database: Path) -> list[dict[str, float]]:
    """Return the moments of each round: its transitions, its last report, its ClientApps' own."""
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
        transitions = connection.execute("SELECT round, state, at FROM transitions").fetchall()
        reports = connection.execute("SELECT round, metrics, at FROM reports").fetchall()
    rounds = []
    for number in sorted({row[0] for row in transitions}):
        moments = {state: at for n, state, at in transitions if n == number}
        moments["reported"] = max(at for n, _, at in reports if n == number)
        metrics = [json.loads(text) for n, text, _ in reports if n == number]
        for name in ("started", "entered", "left"):
            moments[f"first {name}"] = min(item[name] for item in metrics)
            moments[f"last {name}"] = max(item[name] for item in metrics)
        rounds.append(moments)
    return rounds


def print_times(rounds: list[dict[str, float]]) -> None:
    """Print where the seconds of each round after the first went, and their medians."""
    steps = {
        "settle to first app": ("before", "first started"),
        "to last app": ("first started", "last started"),
        "app's start, pull": ("last started", "last entered"),
        "its work": ("last entered", "last left"),
        "reply to report": ("last left", "reported"),
        "report to settled": ("reported", "SETTLED"),
    }
    for before, moments in itertools.pairwise(rounds):
        moments["before"] = before["SETTLED"]
    print("seconds, from the last ClientApp's point of view:")
    print("".join(f"{name:>21}" for name in ("whole round", *steps)))
    lines = [
        [item["SETTLED"] - item["before"], *(item[b] - item[a] for a, b in steps.values())]
        for item in rounds[1:]
    ]
    for line in lines:
        print("".join(f"{value:21.2f}" for value in line))
    print("".join(f"{statistics.median(column):21.2f}" for column in zip(*lines, strict=True)))


def print_processes(sampler: Sampler, given: argparse.Namespace) -> None:
    """Print the peak of each kind of process, and what that is in models."""
    print(
        f"{'process':>12} {'number':>7} {'peak MiB':>9} {'(peak - 135) / model':>21} {'CPU s':>7}"
    )
    for role, peaks in sampler.peak_mib.items():
        peak = max(peaks.values())
        models = (peak - 135) / (given.mb * 1e6 / 2**20)
        cpu = sum(sampler.cpu_s[role].values())
        print(f"{role:>12} {len(peaks):7} {peak:9.0f} {models:21.2f} {cpu:7.1f}")


def main() -> None:
    """Play one market and print its tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--mb", type=float, default=100, help="of a model, 10⁶ bytes")
    parser.add_argument("--institutions", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--largest", type=float, default=0.3, help="share of the largest tensor")
    parser.add_argument("--folder", type=Path, help="of the temporary files")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=given.folder) as name:
        folder = Path(name)
        (folder / "flower").mkdir()
        with ProcessGroup(folder / "logs", environment(folder / "flower")) as group:
            sampler = play(given, folder, group)
        rounds = read_times(folder / "ledger.db")
    print(
        f"{given.institutions} institutions, {given.mb:g} MB a model, {given.rounds} rounds: "
        f"{given.mb * given.institutions:g} MB each way a round"
    )
    print_times(rounds)
    print_processes(sampler, given)


if __name__ == "__main__":
    main()
