"""What it does to measure updates from their mean instead of from θ⁰ (`market.rebased`)."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Final

from ipfl_flower.experiment.definition import ExperimentError
from ipfl_flower.experiment.play import PRESETS as PRESET_OF
from ipfl_flower.experiment.record import Record, summary
from ipfl_flower.experiment.settings import build
from ipfl_flower.experiment.settings.news import adapters
from ipfl_flower.experiment.studies import finding as say
from ipfl_flower.experiment.studies.ablation import BOUNDARY
from ipfl_flower.experiment.studies.bench import Bench
from ipfl_flower.experiment.studies.economies import bought
from ipfl_flower.experiment.studies.finding import Finding, Number, Table, mean, unplayed
from ipfl_flower.experiment.studies.gates import ENCODER, IID, MARKET
from ipfl_flower.experiment.studies.utility import OURS
from ipfl_flower.experiment.studies.varying import Grid, candidates_of, choose, varied
from ipfl_flower.settings import PRESETS
from ipfl_flower.tasks import TaskDataError
from ipfl_flower.trainer.proximal import Sgd

SETTINGS: Final = (MARKET, IID, ENCODER)
LAMBDA: Final[float] = PRESETS[PRESET_OF[OURS]]["distance-weight"]
DEFAULT: Final = f"θ⁰, λ = {LAMBDA:g}"
NEARER: Final = adapters("cheap", Sgd())  # the economics of all three
SMALL: Final = f"mean, λ = {NEARER['distance-weight']:.3g}"
VALUES: Final[Grid] = {
    DEFAULT: {"reference": "initial", "distance-weight": LAMBDA},
    f"mean, λ = {LAMBDA:g}": {"reference": "mean", "distance-weight": LAMBDA},
    SMALL: NEARER,
}
COLUMNS: Final = ("setting", "from", "accuracy %", "worst %", "models bought a round")
ASKED: Final = (
    "The market's distances are measured from θ⁰, the default, or from the round's mean update "
    '(`reference = "mean"`), which takes off what all updates share. Played with hidden groups, '
    "with institutions that are all alike, and with hidden groups that train a language model's "
    "LoRA adapters, whose updates share much. Distances from the mean are larger, so that it has "
    f"the preset's λ and a smaller one, V(1 − 1/√2) − c = {NEARER['distance-weight']:.3g}: with it "
    "a first model of one's own size is bought if it is nearer than a stranger's. Everything else "
    f"is the preset's. Changes of {100 * BOUNDARY:g} point or less of test accuracy are little."
)


def reference(bench: Bench, settings: Sequence[str] = SETTINGS) -> Finding:
    """Play the market with updates measured from θ⁰ and from the mean; leave out missing data.

    Raises
    ------
    ExperimentError
        A setting isn't known, or a market failed.
    """
    found: list[dict[str, Any]] = []
    missing: dict[str, str] = {}
    for name in settings:
        try:
            found.append(_played(bench, name))
        except ExperimentError as error:
            if not isinstance(error.__cause__, TaskDataError):
                raise
            missing[name] = str(error)
    left_out, why = unplayed(missing)
    return Finding(
        name="reference",
        title="Updates measured from their mean",
        asked=ASKED,
        said=[*map(_said, found), *left_out],
        tables=[
            Table(
                "The market by what updates are measured from",
                (*COLUMNS, "own group %", "utility", "distance within", "across"),
                [_row(one["setting"], point) for one in found for point in one["points"]],
                "Own group: its share of the volume that is bought. Distances: cosine, mean over "
                "pairs in the last round, within groups and across.",
            )
        ],
        data={"settings": found},
        details=why,
    )


def _played(bench: Bench, name: str) -> dict[str, Any]:
    """Play a setting at all values; with the language model a quick bench leaves one out."""
    few = bench.quick and name == ENCODER
    made = [build(name, choice) for choice in bench.choices()]
    records = {
        value: [bench.play(varied(setting, OURS, changes), OURS) for setting in made]
        for value, changes in VALUES.items()
        if not few or value in (DEFAULT, SMALL)
    }
    candidates = [
        [
            c
            for v, played in records.items()
            for c in candidates_of(played[k], v, default=v == DEFAULT)
        ]
        for k in range(len(made))
    ]
    return {
        "setting": name,
        "chosen": [one.value for one in map(choose, candidates) if one is not None],
        "points": [{"value": value, **_figures(played)} for value, played in records.items()],
    }


def _figures(records: Sequence[Record]) -> dict[str, list[Number]]:
    sums = [summary(record) for record in records]
    apart = [within_and_across(record) for record in records]
    return {
        **{n: [one[n] for one in sums] for n in ("accuracy", "worst", "own_group", "utility")},
        "bought": [bought(record) for record in records],
        "within": [within for within, _ in apart],
        "across": [across for _, across in apart],
    }


def within_and_across(record: Record) -> tuple[Number, Number]:
    """Return the last round's mean distances within groups and across; None where there is none.

    Whoever has no group is left out, and so is an update that can't be traded.
    """
    groups = [item["group"] for item in record["institutions"]]
    pairs = [
        (groups[i] == groups[j], apart)
        for i, row in enumerate(record["rounds"][-1]["distances"])
        for j, apart in enumerate(row)
        if i != j and apart is not None and None not in (groups[i], groups[j])
    ]
    return mean(d for same, d in pairs if same), mean(d for same, d in pairs if not same)


def _said(one: Mapping[str, Any]) -> str:
    """Say what validation data chooses, and what the mean gains or costs over the default."""
    default, *others = one["points"]
    seeds = len(one["chosen"])
    chosen = Counter(one["chosen"]).most_common()
    return (
        f"`{one['setting']}`: validation data would choose "
        + " or ".join(f"{value} (seeds: {n} of {seeds})" for value, n in chosen)
        + f". At {DEFAULT} test accuracy is {say.percent(mean(default['accuracy']))} %, with "
        f"{say.figure(mean(default['bought']), 1)} models bought a round; "
        + "; ".join(_compared(point, default) for point in others)
        + "."
    )


def _compared(point: Mapping[str, Any], default: Mapping[str, Any]) -> str:
    gains = [a - b for a, b in zip(point["accuracy"], default["accuracy"], strict=True)]
    gain, wide = mean(gains) or 0.0, say.deviation(gains)
    what = "changes little" if abs(gain) <= BOUNDARY else "**gains**" if gain > 0 else "**costs**"
    return (
        f"{point['value']} {what}: {say.signed(100 * gain, 1)}"
        + (f" ± {say.figure(100 * wide, 1)}" if wide is not None else "")
        + f" points, with {say.figure(mean(point['bought']), 1)} models"
    )


def _row(setting: str, point: Mapping[str, Any]) -> list[str]:
    return [
        setting,
        point["value"] + (" (preset)" if point["value"] == DEFAULT else ""),
        say.spread(point["accuracy"], scale=100.0),
        say.percent(mean(point["worst"])),
        say.figure(mean(point["bought"]), 1),
        say.percent(mean(point["own_group"])),
        say.spread(point["utility"]),
        say.figure(mean(point["within"])),
        say.figure(mean(point["across"])),
    ]
