"""Seconds, bytes, memory and CPU time of a round: Flower's FedAvg, this market, the bare transport.

Usage: python benchmarks/bench_rounds.py [--quick] [--institutions 2 6 10] [--mb 1 100 500]
           [--systems fedavg market transport] [--rounds N] [--anyway] [--json FILE]
           [--folder DIR]

All three run on the same fleet: SuperLink with process isolation and SQLite, gRPC (grpc-rere) over
TLS, authenticated SuperNodes, on loopback; a fleet of its own for each case.

  FedAvg     flwr.serverapp.strategy.FedAvg with its own loop and its own sleeps, torch imported in
             its ClientApp as Flower's template has it; fraction_evaluate=0, for the market has no
             second leg either
  market     this project: every institution sells, buys, and is sent a centre of its own
  transport  a ServerApp that pushes and pulls messages of the same tensors in a loop of its own, at
             the market's poll interval, and a ClientApp without torch that sends them back

Training is one step at batch 1 on the cheapest loss that reaches all parameters; "fit" is what it
takes. Seconds a round are the median from the end of one round to that of the next, the first round
left out, by the server app's own notes (the market's: its ledger). CPU seconds are the kernel's, of
every process and of the ones that ended in between; memory is VmHWM; bytes are the counters of the
TCP connections (Unix sockets have none), both directions, with TLS.
"""

import argparse
import json
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import psutil

sys.path.append(str(Path(__file__).parent / "apps"))

from rounds_bench.cases import MB, SYSTEMS, Case, cases, unfit
from rounds_bench.outcome import Outcome, comparison, resources
from rounds_bench.play import play

from ipfl_flower.cli.processes import LaunchError

INSTITUTIONS = (2, 6, 10)
MEGABYTES = (1.0, 100.0, 500.0)
QUICK = ((2,), (1.0, 100.0))
# Left free when it is decided what fits.
SPARE_MB = 1000.0
# On a machine under load Flower's SuperLink may find its SQLite locked, and its executor gives up.
ATTEMPTS = 2


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="2 institutions, 1 and 100 MB")
    parser.add_argument("--institutions", type=int, nargs="+")
    parser.add_argument("--mb", type=float, nargs="+", help="size of the model, 10⁶ bytes")
    parser.add_argument("--systems", nargs="+", choices=SYSTEMS, default=SYSTEMS)
    parser.add_argument(
        "--rounds", type=int, help="rounds measured, after a first one (5; quick: 3)"
    )
    parser.add_argument("--deadline-s", type=float, default=1800.0, help="of one case")
    parser.add_argument("--anyway", action="store_true", help="also what seems too large to fit")
    parser.add_argument("--json", type=Path, help="write all measurements there")
    parser.add_argument(
        "--folder",
        type=Path,
        default=Path(tempfile.gettempdir()),
        help="of the temporary files (many times the models)",
    )
    options = parser.parse_args(given)
    institutions, megabytes = QUICK if options.quick else (INSTITUTIONS, MEGABYTES)
    options.institutions = options.institutions or institutions
    options.mb = options.mb or megabytes
    options.rounds = options.rounds or (3 if options.quick else 5)
    if min(options.institutions) < 2:
        parser.error("--institutions: a market has 2 or more")
    return options


def measure(options: argparse.Namespace) -> list[Outcome]:
    """Run all cases that fit; say which don't, and which fail."""
    outcomes = []
    for case in cases(options.systems, options.institutions, options.mb):
        memory_mb = psutil.virtual_memory().available / MB - SPARE_MB
        disk_mb = shutil.disk_usage(options.folder).free / MB - SPARE_MB
        if not options.anyway and (reason := unfit(case, memory_mb, disk_mb)):
            print(f"{case.title}: skipped, {reason}", flush=True)
            continue
        for _ in range(ATTEMPTS):
            outcome = attempt(case, options)
            if outcome is not None:
                outcomes.append(outcome)
                break
    return outcomes


def attempt(case: Case, options: argparse.Namespace) -> Outcome | None:
    """Run a case in a folder of its own; None: it failed, and its logs are kept."""
    folder = Path(tempfile.mkdtemp(dir=options.folder, prefix="bench-rounds-")).resolve()
    try:
        outcome = play(case, options.rounds, folder, options.deadline_s)
    except LaunchError as error:
        print(f"{case.title}: failed, {error} (logs: {folder / 'logs'})", flush=True)
        remove(folder, keep="logs")
        return None
    except BaseException:
        remove(folder)
        raise
    remove(folder)
    each = " ".join(f"{seconds:.2f}" for seconds in outcome.rounds_s)
    print(f"{case.title}: {outcome.round_s:.2f} s a round ({each})", flush=True)
    return outcome


def remove(folder: Path, keep: str | None = None) -> None:
    """Delete a case's folder: models take much room; with `keep`, all but that part of it."""
    for item in folder.iterdir():
        if item.name != keep:
            shutil.rmtree(item, ignore_errors=True) if item.is_dir() else item.unlink()
    if keep is None:
        folder.rmdir()


def main() -> None:
    """Print what is measured, as it comes, and the tables of it all."""
    options = arguments()
    # A polite kill ends the fleet, too: each of its processes has a session of its own.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by SIGTERM"))
    cores = len(os.sched_getaffinity(0))
    busy = os.getloadavg()[0]
    print(f"{cores} cores, load {busy:.1f} before we begin; {options.rounds} rounds a case")
    outcomes = measure(options)
    if options.json is not None:
        content = {"cores": cores, "load": busy, "cases": [item.as_json() for item in outcomes]}
        options.json.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    if not outcomes:
        sys.exit("nothing was measured")
    print("\n" + "\n".join([*comparison(outcomes), "", *resources(outcomes)]))


if __name__ == "__main__":
    main()
