"""Label skew: each institution holds few of the classes."""

from ipfl_flower.experiment.definition import Choice, Seat, Setting
from ipfl_flower.experiment.settings.fashion import fashion_setting, task

INSTITUTIONS = 10
# So many that the smallest slices of seeds 0, 1 and 2 can be tested on TEST_MIN images; slices of
# other seeds may be smaller than that takes.
TOTAL = 60_000
TEST_MIN = 100
# Slices are of very different sizes: with this, training data is some 240 samples in the mean.
SAMPLES_MAX = 250


def fashion_dirichlet(choice: Choice) -> Setting:
    """Ten institutions by Dirichlet(0.1), some 240 samples each."""
    seats = tuple(
        Seat(
            name=f"skewed-{i:02d}",
            task=task(
                choice,
                institution=i,
                institutions=INSTITUTIONS,
                split="dirichlet",
                beta=0.1,
                total=TOTAL,
                samples=SAMPLES_MAX,
                proportional=True,
                test_min=TEST_MIN,
            ),
            group=None,
        )
        for i in range(INSTITUTIONS)
    )
    return fashion_setting(
        choice,
        "fashion_dirichlet",
        "Fashion-MNIST, Dirichlet(0.1), 10 × some 240 samples",
        seats,
    )
