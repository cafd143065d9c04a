"""The studies that ``ipfl experiment --study`` knows, by name, in the order of the report."""

from collections.abc import Callable, Mapping
from typing import Final, TypeAlias

from ipfl_flower.experiment.definition import ExperimentError
from ipfl_flower.experiment.studies.ablation import ablation
from ipfl_flower.experiment.studies.attacks import attacks
from ipfl_flower.experiment.studies.bench import Bench
from ipfl_flower.experiment.studies.economies import economies
from ipfl_flower.experiment.studies.finding import Finding
from ipfl_flower.experiment.studies.gates import gates
from ipfl_flower.experiment.studies.inclusive import inclusive
from ipfl_flower.experiment.studies.liars import liars
from ipfl_flower.experiment.studies.reference import reference
from ipfl_flower.experiment.studies.scale import scale
from ipfl_flower.experiment.studies.sensitivity import sensitivity
from ipfl_flower.experiment.studies.tuning import tuning

Study: TypeAlias = Callable[[Bench], Finding]

STUDIES: Final[Mapping[str, Study]] = {
    "gates": gates,
    "tuning": tuning,
    "economies": economies,
    "scale": scale,
    "liars": liars,
    "sensitivity": sensitivity,
    "ablation": ablation,
    "reference": reference,
    "attacks": attacks,
    "inclusive": inclusive,
}

TASKS: Final = "tasks"
"""The main table, which is made of the settings that are asked for: with --study, of all."""


def find_study(name: str) -> Study:
    """Return the study of that name.

    Raises
    ------
    ExperimentError
        There is none; the message lists those that there are.
    """
    if name not in STUDIES:
        raise ExperimentError(
            f"study {name!r} is not known: choose from {', '.join((*STUDIES, TASKS))}"
        )
    return STUDIES[name]
