"""Nobody's model is of use to anybody else."""

from ipfl_flower.experiment.definition import Choice, Seat, Setting
from ipfl_flower.experiment.settings.fashion import TEST, fashion_setting, task

INSTITUTIONS = 12


def fashion_private(choice: Choice) -> Setting:
    """Twelve institutions that each name the classes in a way of their own."""
    seats = tuple(
        Seat(
            name=f"private-{i:02d}",
            task=task(
                choice,
                institution=i,
                institutions=INSTITUTIONS,
                split="clusters",
                groups=INSTITUTIONS,
                samples=150,
                test=TEST,
            ),
            group=i,
        )
        for i in range(INSTITUTIONS)
    )
    return fashion_setting(
        choice,
        "fashion_private",
        "Fashion-MNIST, 12 private label permutations, 150 samples each",
        seats,
    )
