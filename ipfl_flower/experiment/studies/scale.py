"""Scale: 10, 100 and 1,000 institutions, from synthetic models (mechanism.md §9)."""

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Final

import numpy as np
from flwr.app import RecordDict
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects

from ipfl_flower.experiment.definition import ExperimentError
from ipfl_flower.experiment.studies.bench import Bench
from ipfl_flower.experiment.studies.finding import Finding, Line, Lines, Table, figure, percent
from ipfl_flower.market import Terms
from ipfl_flower.protocol import Reply, Request

INSTITUTIONS: Final = (10, 100, 1000)
GROUPS: Final = 5
PARAMETERS: Final = 10_000
MEGA: Final = 1e6
# The paper's mechanism with its economics, the recommended one with cheap models, and both others.
_ECONOMICS: Final = {"paper": "c = 1", "cheap": "c = .05"}


def scale(
    bench: Bench, institutions: Sequence[int] = INSTITUTIONS, parameters: int = PARAMETERS
) -> Finding:
    """Play the server's part of one round at each scale, in a process of its own each.

    Raises
    ------
    ExperimentError
        Such a process failed.
    """
    scenes = [
        {"institutions": m, "groups": GROUPS, "parameters": parameters, "seed": bench.seeds[0]}
        for m in institutions
    ]
    measured = [
        bench.figures(f"scale-{scene['institutions']}", scene, partial(_measured, scene))
        for scene in scenes
    ]
    sizes = message_bytes(parameters)
    server, market, wire = [], [], []
    for scene, took in zip(scenes, measured, strict=True):
        m = scene["institutions"]
        server.append(_server_row(m, took))
        market += [_market_row(m, one) for one in took["clearings"]]
        wire.append(_wire_row(m, took, sizes))
    return Finding(
        name="scale",
        title="Scale",
        asked=(
            f"The server's part of one round: models of {parameters:,} parameters, drawn around "
            f"{GROUPS} hidden directions, go into the bank, are cleared under both mechanisms "
            "with both economics, and the centres are computed, by one thread. No training."
        ),
        said=_said(institutions, measured),
        tables=(
            Table(
                "The server, one round",
                (
                    "institutions",
                    "models in, s",
                    "clearing `recommended`, s",
                    "clearing `paper`, s",
                    "centres, s",
                    "peak memory, MiB",
                    "of it before the round",
                ),
                server,
                "Clearing: the slower of the two economics. Times are of this machine at that "
                "moment.",
            ),
            Table(
                "Who buys",
                ("institutions", "preset", "economics", "edges", "density %", "own group %"),
                market,
                "Density: edges of all ordered pairs. Own group: share of the volume bought.",
            ),
            Table(
                "What travels in one round, `recommended`, c = .05",
                ("institutions", "up, MB", "down, MB", "of it overhead %"),
                wire,
                f"By formula from real messages: {sizes['reply']:,} bytes up from everyone, down "
                f"{sizes['centre']:,} to who bought and {sizes['empty']:,} to who didn't; a model "
                f"is {4 * parameters:,}.",
            ),
        ),
        charts=_charts(institutions, measured),
        data={"measured": measured, "message_bytes": sizes},
    )


def message_bytes(parameters: int) -> dict[str, int]:
    """Return what the content of one message of each kind takes, as Flower's objects, bytes.

    Returns
    -------
    dict
        ``reply``: a model and terms; ``centre``: a request with a centre; ``empty``: one without.
    """
    arrays = {"model": np.zeros(parameters, np.float32)}
    terms = Terms(samples=100, cost=0.05, eagerness=1e4)
    reply = Reply(0, arrays, terms, leaving=False, metrics={"test_accuracy": 0.5})
    centre = Request(0, train=True, role="centre", arrays=arrays, coefficient=1.0, start="centre")
    empty = Request(0, train=True, role="none", arrays={}, coefficient=0.0, start="centre")
    return {
        "reply": _bytes(reply.to_records()),
        "centre": _bytes(centre.to_records()),
        "empty": _bytes(empty.to_records()),
    }


def _bytes(content: RecordDict) -> int:
    return sum(len(found.deflate()) for found in get_all_nested_objects(content).values())


def _measured(scene: Mapping[str, Any]) -> dict[str, Any]:
    # From a process of its own: memory is what the server needs, not what an experiment imports.
    command = [sys.executable, "-m", "ipfl_flower.experiment.studies.server"]
    done = subprocess.run(  # noqa: S603 - this very program, from a list
        command, input=json.dumps(scene), capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        last = done.stderr.strip().rsplit("\n", 1)[-1]
        raise ExperimentError(f"study scale, {scene['institutions']} institutions: {last}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def _slowest(took: Mapping[str, Any], preset: str) -> float:
    return max(float(one["seconds"]) for one in took["clearings"] if one["preset"] == preset)


def _server_row(m: int, took: Mapping[str, Any]) -> list[str]:
    return [
        f"{m:,}",
        figure(took["put_s"]),
        figure(_slowest(took, "recommended"), 3),
        figure(_slowest(took, "paper"), 3),
        figure(took["centres_s"], 3),
        figure(took["memory_peak"] / 2**20, 0),
        figure(took["memory_start"] / 2**20, 0),
    ]


def _market_row(m: int, one: Mapping[str, Any]) -> list[str]:
    return [
        f"{m:,}",
        one["preset"],
        _ECONOMICS[one["economics"]],
        f"{one['edges']:,}",
        percent(one["density"], 2),
        percent(one["own_group"]),
    ]


def _wire_row(m: int, took: Mapping[str, Any], sizes: Mapping[str, int]) -> list[str]:
    buyers = next(
        one["buyers"]
        for one in took["clearings"]
        if one["preset"] == "recommended" and one["economics"] == "cheap"
    )
    up = m * sizes["reply"]
    down = buyers * sizes["centre"] + (m - buyers) * sizes["empty"]
    bare = (m + buyers) * (sizes["centre"] - sizes["empty"])
    return [
        f"{m:,}",
        figure(up / MEGA),
        figure(down / MEGA),
        percent(1.0 - bare / (up + down)),
    ]


def _said(institutions: Sequence[int], measured: Sequence[Mapping[str, Any]]) -> list[str]:
    first, last = measured[0], measured[-1]
    slowest = max(_slowest(last, preset) for preset in ("paper", "recommended"))
    fallbacks = sum(one["fallbacks"] for took in measured for one in took["clearings"])
    return [
        (
            f"From {institutions[0]:,} to {institutions[-1]:,} institutions the traffic of a round "
            "grows with their number, not with its square: everyone sends one model and gets at "
            "most one centre."
        ),
        (
            f"{institutions[-1]:,} institutions are cleared in {figure(slowest)} s or less, at a "
            f"peak of {figure(last['memory_peak'] / 2**20, 0)} MiB (with {institutions[0]:,}: "
            f"{figure(first['memory_peak'] / 2**20, 0)})."
        ),
        "The exact selection never fell back on the heuristic."
        if fallbacks == 0
        else f"The exact selection fell back on the heuristic in {fallbacks} rows.",
    ]


def _charts(
    institutions: Sequence[int], measured: Sequence[Mapping[str, Any]]
) -> tuple[Lines, ...]:
    lines = [
        Line(
            f"{preset}, {label}",
            [
                100 * one["density"]
                for took in measured
                for one in took["clearings"]
                if (one["preset"], one["economics"]) == (preset, economics)
            ],
        )
        for preset in ("recommended", "paper")
        for economics, label in _ECONOMICS.items()
    ]
    return (
        Lines(
            "scale-density",
            "Density of the graph",
            f"Edges of all ordered pairs; {', '.join(f'{m:,}' for m in institutions)} institutions",
            list(range(1, 1 + len(institutions))),
            lines,
            x_label="scale, by number",
            unit="%",
            places=[f"{m:,} institutions" for m in institutions],
        ),
    )
