"""Everybody's data is alike: everyone is a good seller."""

from ipfl_flower.experiment.definition import Choice, Seat, Setting
from ipfl_flower.experiment.settings.fashion import TEST, fashion_setting, task

INSTITUTIONS = 12


def fashion_iid(choice: Choice) -> Setting:
    """Twelve institutions with 60 samples each."""
    seats = tuple(
        Seat(
            name=f"alike-{i:02d}",
            task=task(
                choice,
                institution=i,
                institutions=INSTITUTIONS,
                split="clusters",
                samples=60,
                test=TEST,
            ),
            group=0,
        )
        for i in range(INSTITUTIONS)
    )
    return fashion_setting(
        choice,
        "fashion_iid",
        "Fashion-MNIST, 12 × 60 samples of one distribution",
        seats,
    )
