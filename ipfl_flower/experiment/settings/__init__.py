"""The settings that ``ipfl experiment`` knows, one a file."""

import dataclasses
from typing import Final

from ipfl_flower.experiment.definition import Build, Choice, ExperimentError, Setting
from ipfl_flower.experiment.settings.fashion_dirichlet import fashion_dirichlet
from ipfl_flower.experiment.settings.fashion_iid import fashion_iid
from ipfl_flower.experiment.settings.fashion_market import fashion_market
from ipfl_flower.experiment.settings.fashion_private import fashion_private
from ipfl_flower.experiment.settings.fashion_rotations import fashion_rotations
from ipfl_flower.experiment.settings.femnist import femnist
from ipfl_flower.experiment.settings.finance import cofinance, mixed_finance
from ipfl_flower.experiment.settings.images import (
    cifar10_cluster,
    cifar10_niid,
    cifar10_skew,
    fashion_cluster,
    fashion_niid,
    fashion_skew,
)
from ipfl_flower.experiment.settings.news import news_encoder, news_language_model
from ipfl_flower.experiment.settings.pacs import pacs
from ipfl_flower.experiment.settings.shakespeare import shakespeare
from ipfl_flower.tasks import TaskDataError, TaskError

__all__ = ["SETTINGS", "build", "require_setting"]

SETTINGS: Final[dict[str, Build]] = {
    make.__name__: make
    for make in (
        fashion_market,
        fashion_iid,
        fashion_private,
        fashion_dirichlet,
        fashion_rotations,
        news_encoder,
        news_language_model,
        cifar10_niid,
        cifar10_cluster,
        cifar10_skew,
        fashion_niid,
        fashion_cluster,
        fashion_skew,
        femnist,
        shakespeare,
        pacs,
        mixed_finance,
        cofinance,
    )
}

ON_IMAGES: Final = ("cifar10_", "fashion_", "pacs")
"""How those settings begin whose tasks read images of Hugging Face's hub, too."""


def require_setting(name: str, dataset: str | None = None) -> None:
    """Check that there is a setting of that name, and that it is played on such data.

    Raises
    ------
    ExperimentError
        There is none, and the message lists those that there are; or a data set is named, and the
        setting has tasks that read none.
    """
    if name not in SETTINGS:
        raise ExperimentError(
            f"setting {name!r} is not known: choose from {', '.join(sorted(SETTINGS))}"
        )
    if dataset is not None and not name.startswith(ON_IMAGES):
        those = ", ".join(other for other in sorted(SETTINGS) if other.startswith(ON_IMAGES))
        raise ExperimentError(f"setting {name} takes no --dataset, which is for {those}")


def build(name: str, choice: Choice) -> Setting:
    """Make the setting of that name, with the choice's number of rounds where it has one.

    Raises
    ------
    ExperimentError
        There is none, or not on such data, see `require_setting`; or its data can't be had.
    """
    require_setting(name, choice.dataset)
    try:
        setting = SETTINGS[name](choice)
    except (TaskError, TaskDataError) as error:
        raise ExperimentError(f"setting {name}: {error}") from error
    rounds = setting.rounds if choice.rounds is None else choice.rounds
    return dataclasses.replace(setting, rounds=rounds)
