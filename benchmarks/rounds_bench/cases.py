"""What is measured: systems, sizes, and what a case needs of the machine."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

System = Literal["fedavg", "market", "transport"]
SYSTEMS: tuple[System, ...] = ("fedavg", "market", "transport")
TITLES = {"fedavg": "FedAvg", "market": "market", "transport": "transport"}

MB = 10**6
# Measured: what Flower's processes hold with no model in them, MB …
_OPERATOR_MB = 145 + 124 + 350
_INSTITUTION_MB = 140 + 124 + 330
# … and how many models each holds at its peak: SuperLink, server app; SuperNode, ClientApp.
_SUPERLINK_MODELS = 3.0
_SUPERNODE_MODELS = 3.0
_CLIENTAPP_MODELS = {"fedavg": 5.0, "market": 2.2, "transport": 2.2}
_TRAINER_MODELS = 2.8
_SERVERAPP_MODELS = {"fedavg": 6.0, "market": 2.5, "transport": 2.5}
# FedAvg's server app holds every reply, and what they are made of.
_REPLY_MODELS = 3.0


@dataclass(frozen=True)
class Case:
    """One system with so many institutions and a model of so many MB (10⁶ bytes)."""

    system: System
    institutions: int
    megabytes: float

    @property
    def title(self) -> str:
        """How it is called in what is printed."""
        return f"{TITLES[self.system]}, {self.institutions} institutions, {self.megabytes:g} MB"

    @property
    def memory_mb(self) -> float:
        """An estimate of the memory that all its processes hold at once."""
        operator = _SUPERLINK_MODELS + _SERVERAPP_MODELS[self.system]
        institution = _SUPERNODE_MODELS + _CLIENTAPP_MODELS[self.system]
        if self.system == "fedavg":
            operator += _REPLY_MODELS * self.institutions
        resident = _INSTITUTION_MB
        if self.system == "market":
            institution += _TRAINER_MODELS
            resident += 350
        models = operator + institution * self.institutions
        return _OPERATOR_MB + resident * self.institutions + models * self.megabytes

    @property
    def disk_mb(self) -> float:
        """An estimate of the disk that it takes: Flower's database and its log, bank, trainers."""
        models = 2 + 4 * self.institutions
        if self.system == "market":
            models += 8 * self.institutions
        return 100 + models * self.megabytes


def cases(
    systems: Sequence[System], institutions: Sequence[int], megabytes: Sequence[float]
) -> list[Case]:
    """Return all combinations; the systems of one row follow each other."""
    sizes = itertools.product(megabytes, institutions)
    return [Case(system, m, mb) for mb, m in sizes for system in systems]


def unfit(case: Case, memory_mb: float, disk_mb: float) -> str | None:
    """Say why a case is not tried with so much free memory and disk; None: it fits."""
    for what, needed, free in (
        ("memory", case.memory_mb, memory_mb),
        ("disk", case.disk_mb, disk_mb),
    ):
        if needed > free:
            return f"needs about {needed / 1e3:.1f} GB of {what}, {free / 1e3:.1f} GB are free"
    return None
