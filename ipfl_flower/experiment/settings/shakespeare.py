"""The next character by role: Shakespeare.

The paper's η, 5000, is absolute; here it is relative to ‖v‖² and capped, so the cap decides, and it
is no larger a step than 5 is elsewhere (see `settings.paper`).
"""

import dataclasses
from typing import Any

from ipfl_flower.experiment.definition import Choice, Setting
from ipfl_flower.experiment.settings.paper import folder, paper_setting, sgd_of, slices


def shakespeare(choice: Choice) -> Setting:
    """Ten institutions, each one of the roles that say most."""
    count = 6 if choice.quick else 10
    options: dict[str, Any] = {"name": "shakespeare", **folder(choice, "shakespeare")}
    if choice.quick:
        options |= {"model": "gru", "length": 40, "samples": 120, "validation": 30, "test": 60}
    else:
        options |= {"model": "lstm", "proportional": True}
    sgd = sgd_of(choice, 200, quick=(20, 1.0))
    return paper_setting(
        choice,
        "shakespeare",
        f"Shakespeare's next character, {count} roles",
        slices(count, **options),
        # A sample is `length` predictions: quick runs take fewer at a time.
        sgd=dataclasses.replace(sgd, batch_size=16) if choice.quick else sgd,
        distance_weight=2.0,
        eta=5000.0,
    )
