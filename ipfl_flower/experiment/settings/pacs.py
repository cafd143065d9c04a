"""Photos, art, cartoons and sketches of the same things: PACS."""

from typing import Any

from ipfl_flower.experiment.definition import Choice, Setting
from ipfl_flower.experiment.settings.paper import folder, paper_setting, sgd_of, slices

DOMAINS = 4
INSTITUTIONS = 8


def pacs(choice: Choice) -> Setting:
    """Eight institutions, two of each domain."""
    options: dict[str, Any] = {"name": "pacs", "split": "domains", **folder(choice)}
    if choice.quick:
        options |= {"model": "cnn", "side": 32, "samples": 150, "validation": 40, "test": 80}
    else:
        options |= {"model": "resnet20", "side": 64, "proportional": True}
    return paper_setting(
        choice,
        "pacs",
        f"PACS, 4 domains, {INSTITUTIONS} institutions",
        slices(INSTITUTIONS, **options),
        sgd=sgd_of(choice, 200),
        distance_weight=1e-5,
        eta=5.0,
        groups=[i % DOMAINS for i in range(INSTITUTIONS)],
    )
