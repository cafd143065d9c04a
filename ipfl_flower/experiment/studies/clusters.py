"""Hidden groups on Fashion-MNIST whose members play roles, for attacks and inclusion."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from ipfl_flower.experiment.definition import Choice, Economics, Seat, Setting
from ipfl_flower.experiment.settings.fashion import DATA, SGD, TEST, task

SAMPLES: Final = 100
ROUNDS: Final = 20
ROUNDS_QUICK: Final = 8


def clusters(
    choice: Choice,
    *,
    name: str,
    title: str,
    groups: int,
    members: Sequence[Mapping[str, Any]],
    economics: Economics,
    rounds: int | None = None,
) -> Setting:
    """Return a setting in which institution i belongs to hidden group i % groups.

    Groups name the classes differently. Everyone has the same number of samples.

    Parameters
    ----------
    choice : Choice
    name, title : str
    groups : int
    members : sequence of mapping
        What each one's `Seat` says beside its task; {"absent": True}: its data is dealt, and
        nobody has it, so that the others' data is as if it were there.
    economics : {"paper", "cheap"}
    rounds : int, optional
        By default the choice's, or as many as it takes.
    """
    seats = []
    for i, member in enumerate(members):
        if member.get("absent"):
            continue
        slice_ = task(
            choice,
            institution=i,
            institutions=len(members),
            split="clusters",
            groups=groups,
            samples=SAMPLES,
            test=TEST,
        )
        role = member.get("role", "trader")
        said = dict(member)
        seats.append(Seat(name=f"{role}-{i:02d}", task=slice_, group=i % groups, **said))
    return Setting(
        name=name,
        title=title,
        seats=tuple(seats),
        sgd=SGD,
        rounds=rounds or choice.rounds or (ROUNDS_QUICK if choice.quick else ROUNDS),
        seed=choice.seed,
        economics=economics,
        data=DATA,
    )
