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

__all__ = ["SETTINGS", "build"]

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


def build(name: str, choice: Choice) -> Setting:
    """Make the setting of that name, with the choice's number of rounds where it has one.

    Raises
    ------
    ExperimentError
        There is none, and the message lists those that there are; or its data can't be had.
    """
    if name not in SETTINGS:
        raise ExperimentError(
            f"setting {name!r} is not known: choose from {', '.join(sorted(SETTINGS))}"
        )
    try:
        setting = SETTINGS[name](choice)
    except (TaskError, TaskDataError) as error:
        raise ExperimentError(f"setting {name}: {error}") from error
    rounds = setting.rounds if choice.rounds is None else choice.rounds
    return dataclasses.replace(setting, rounds=rounds)
