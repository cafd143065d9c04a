"""What the market is compared with: accuracies that no ledger has."""

import json
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any, Final

SIZE_MAX: Final = 2**24
COUNT_MAX: Final = 4
"""Baselines that a chart still tells apart."""

DEMO: Final = {"local_accuracy": "alone", "fedavg_accuracy": "FedAvg"}
"""What a demo's result calls them, and what they are called here."""

NAMES: Final = {"local": "alone", "fedavg": "FedAvg"}


class ReportError(RuntimeError):
    """The report can't be made as it is told to; the message says why and what to do."""


@dataclass(frozen=True)
class Baselines:
    """Accuracies to compare with.

    Attributes
    ----------
    source : str
        The name of the file that they are from.
    accuracies : mapping of str to mapping
        Name of the baseline to test accuracy, in [0, 1], by institution's name.
    head : str or None
        The head of the ledger that they go with, where the file says so.
    """

    source: str
    accuracies: Mapping[str, Mapping[str, float]]
    head: str | None = None

    def mean(self, name: str, of: AbstractSet[str]) -> float | None:
        """Return a baseline's mean over those of the institutions `of` that it knows."""
        known = [value for who, value in self.accuracies[name].items() if who in of]
        return sum(known) / len(known) if known else None


def read_baselines(path: Path) -> Baselines:
    """Read baselines.

    Parameters
    ----------
    path : Path
        A demo's ``result.json``, or a JSON object of objects: baseline to institution to accuracy.

    Raises
    ------
    ReportError
        It can't be read, or is neither.
    """
    try:
        with path.open("rb") as file:
            content = file.read(SIZE_MAX + 1)
    except OSError as error:
        raise ReportError(f"{path}, the baselines, can't be read: {error.strerror}") from error
    if len(content) > SIZE_MAX:
        raise ReportError(f"{path} has more than {SIZE_MAX} bytes: it holds no baselines")
    try:
        value = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ReportError(f"{path}, the baselines, is no JSON: {error}") from error
    if not isinstance(value, dict) or not value:
        raise ReportError(_wrong(path, "it is no object with something in it"))
    head = None
    if isinstance(value.get("institutions"), list):
        ledger = value.get("ledger")
        head = ledger.get("head") if isinstance(ledger, dict) else None
        table = _of_demo(path, value["institutions"])
    else:
        table = {NAMES.get(str(name), str(name)): found for name, found in value.items()}
    if len(table) > COUNT_MAX:
        raise ReportError(_wrong(path, f"it has more than {COUNT_MAX} baselines"))
    checked = {name: _checked(path, name, found) for name, found in table.items()}
    return Baselines(path.name, checked, str(head) if head else None)


def _of_demo(path: Path, rows: list[Any]) -> dict[str, Any]:
    table: dict[str, Any] = {}
    for row in rows:
        if not isinstance(row, dict) or "name" not in row:
            raise ReportError(_wrong(path, "an institution in it has no name"))
        for key, name in DEMO.items():
            if row.get(key) is not None:
                table.setdefault(name, {})[str(row["name"])] = row[key]
    if not table:
        raise ReportError(_wrong(path, "it has neither local_accuracy nor fedavg_accuracy"))
    return table


def _checked(path: Path, name: str, found: Any) -> dict[str, float]:
    if not isinstance(found, dict):
        raise ReportError(_wrong(path, f"{name!r} in it is no object"))
    for who, value in found.items():
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or not isfinite(value) or not 0 <= value <= 1:
            raise ReportError(_wrong(path, f"{name!r} of {who!r} is no accuracy from 0 to 1"))
    return {str(who): float(value) for who, value in found.items()}


def _wrong(path: Path, what: str) -> str:
    return (
        f"{path} holds no baselines: {what}: give a demo's result.json, "
        'or {"FedAvg": {"institution": 0.81}}'
    )
