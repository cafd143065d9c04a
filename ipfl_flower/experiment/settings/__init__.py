"""The settings that ``ipfl experiment`` knows, one a file."""

from typing import Final

from ipfl_flower.experiment.definition import Build, Choice, ExperimentError, Setting
from ipfl_flower.experiment.settings.fashion_dirichlet import fashion_dirichlet
from ipfl_flower.experiment.settings.fashion_iid import fashion_iid
from ipfl_flower.experiment.settings.fashion_market import fashion_market
from ipfl_flower.experiment.settings.fashion_private import fashion_private
from ipfl_flower.experiment.settings.fashion_rotations import fashion_rotations

__all__ = ["SETTINGS", "build"]

SETTINGS: Final[dict[str, Build]] = {
    make.__name__: make
    for make in (
        fashion_market,
        fashion_iid,
        fashion_private,
        fashion_dirichlet,
        fashion_rotations,
    )
}


def build(name: str, choice: Choice) -> Setting:
    """Make the setting of that name.

    Raises
    ------
    ExperimentError
        There is none; the message lists those that there are.
    """
    if name not in SETTINGS:
        raise ExperimentError(
            f"setting {name!r} is not known: choose from {', '.join(sorted(SETTINGS))}"
        )
    return SETTINGS[name](choice)
