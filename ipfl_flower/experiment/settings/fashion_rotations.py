"""Hidden groups by what the images look like, with a CNN."""

from ipfl_flower.experiment.definition import Choice, Seat, Setting
from ipfl_flower.experiment.settings.fashion import TEST, fashion_setting, task

INSTITUTIONS = 12
GROUPS = 4


def fashion_rotations(choice: Choice) -> Setting:
    """Four groups that see the images turned by 0°, 90°, 180° and 270°."""
    seats = tuple(
        Seat(
            name=f"turned-{i:02d}",
            task=task(
                choice,
                institution=i,
                institutions=INSTITUTIONS,
                split="clusters",
                cluster_by="rotation",
                groups=GROUPS,
                model="cnn",
                samples=100,
                test=TEST,
            ),
            group=i % GROUPS,
        )
        for i in range(INSTITUTIONS)
    )
    return fashion_setting(
        choice,
        "fashion_rotations",
        "Fashion-MNIST, 4 quarter turns, CNN, 12 × 100 samples",
        seats,
    )
