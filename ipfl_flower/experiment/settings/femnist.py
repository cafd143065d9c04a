"""Characters by writer: FEMNIST."""

from typing import Any

from ipfl_flower.experiment.definition import Choice, Setting
from ipfl_flower.experiment.settings.paper import folder, paper_setting, sgd_of, slices


def femnist(choice: Choice) -> Setting:
    """Twenty institutions, each one of those who wrote most."""
    count = 8 if choice.quick else 20
    options: dict[str, Any] = {"name": "femnist", "proportional": True, **folder(choice, "femnist")}
    options["model"] = "cnn" if choice.quick else "lenet"
    return paper_setting(
        choice,
        "femnist",
        f"FEMNIST, {count} writers",
        slices(count, **options),
        sgd=sgd_of(choice, 50, quick=(30, 0.1)),
        distance_weight=1.0,
        eta=5.0,
    )
