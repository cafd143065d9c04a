"""What the settings on Fashion-MNIST have in common."""

from typing import Any, Final

from ipfl_flower.experiment.definition import Choice
from ipfl_flower.trainer.proximal import Sgd

TASK: Final = "ipfl_flower.experiment.standardised:StandardisedFashion"
DATA: Final = "Fashion-MNIST (Zalando's 70,000 images, cut anew)"
SGD: Final = Sgd(epochs=5, batch_size=32, learning_rate=0.05)
VALIDATION: Final = 40
TEST: Final = 1000


def rounds(choice: Choice) -> int:
    """Return how many rounds are played."""
    return 3 if choice.quick else 20


def task(choice: Choice, **options: Any) -> dict[str, Any]:
    """Return a ``[task]`` table with `options`."""
    folder = {} if choice.data_dir is None else {"data_dir": str(choice.data_dir)}
    validation = {} if options.get("proportional") else {"validation": VALIDATION}
    return {"name": TASK, "seed": choice.seed, **folder, **validation, **options}
