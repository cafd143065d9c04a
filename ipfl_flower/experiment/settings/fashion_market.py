"""A market worth the name: hidden groups × sizes, and two who sell noise."""

from typing import Final

from ipfl_flower.experiment.definition import Choice, Seat, Setting
from ipfl_flower.experiment.settings.fashion import TEST, fashion_setting, task

GROUPS: Final = 3
SAMPLES: Final = (40, 80, 160, 320)
NOISE: Final = 2
# As large as an honest seller that is worth its price to anybody: no buyer is warned by the size.
NOISE_SAMPLES: Final = 160


def fashion_market(choice: Choice) -> Setting:
    """Three groups that name the classes differently, in four sizes each; two of random labels."""
    honest = GROUPS * len(SAMPLES)
    seats = []
    for i in range(honest + NOISE):
        noise = i >= honest
        size = NOISE_SAMPLES if noise else SAMPLES[i // GROUPS]
        slice_ = task(
            choice,
            split="clusters",
            groups=GROUPS,
            institution=i,
            institutions=honest + NOISE,
            samples=size,
            test=TEST,
        )
        seats.append(
            Seat(
                name=f"noise-{i - honest}" if noise else f"group{i % GROUPS}-{size}",
                task=slice_,
                group=None if noise else i % GROUPS,
                role="noise" if noise else "trader",
                eagerness=0.0 if noise else None,
                random_labels=noise,
            )
        )
    return fashion_setting(
        choice,
        "fashion_market",
        "Fashion-MNIST, 3 groups by label permutation × 4 sizes, 2 noise sellers",
        seats,
    )
