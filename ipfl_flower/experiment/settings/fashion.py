"""What the settings on Fashion-MNIST have in common."""

from collections.abc import Sequence
from typing import Any, Final

from ipfl_flower.experiment.definition import Choice, Seat, Setting
from ipfl_flower.experiment.settings.paper import folder
from ipfl_flower.tasks import load_task
from ipfl_flower.trainer.proximal import Sgd

TASK: Final = "ipfl_flower.experiment.standardised:StandardisedFashion"
DATA: Final = "Fashion-MNIST (Zalando's 70,000 images, cut anew)"
SGD: Final = Sgd(epochs=5, batch_size=32, learning_rate=0.05)
VALIDATION: Final = 40
TEST: Final = 1000


def fashion_setting(choice: Choice, name: str, title: str, seats: Sequence[Seat]) -> Setting:
    """Make a setting on Fashion-MNIST, or the choice's data set in its place, with cheap models.

    Raises
    ------
    TaskError
        That is no name of a data set.
    """
    named = None if choice.dataset is None else load_task(**seats[0].task)
    return Setting(
        name=name,
        title=title,
        seats=tuple(seats),
        sgd=SGD,
        rounds=3 if choice.quick else 20,
        seed=choice.seed,
        economics="cheap",
        data=DATA if named is None else named.source(),
        stand_in=named is not None and named.stand_in(),
    )


def task(choice: Choice, **options: Any) -> dict[str, Any]:
    """Return a ``[task]`` table with `options`."""
    validation = {} if options.get("proportional") else {"validation": VALIDATION}
    return {"name": TASK, "seed": choice.seed, **folder(choice), **validation, **options}
