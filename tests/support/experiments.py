"""A setting that takes seconds: digits, four institutions, two of each hidden group."""

import dataclasses

from ipfl_flower.experiment.definition import Seat, Setting
from ipfl_flower.trainer.proximal import Sgd

GROUPS = 2


def tiny(seed=0, rounds=3, sizes=(30, 40, 50, 60), seats=None, **changes):
    """Return the setting; `seats` changes institutions by position."""
    changed = seats or {}
    everyone = tuple(
        dataclasses.replace(
            Seat(
                name=f"institution-{i}",
                task={
                    "name": "digits",
                    "split": "clusters",
                    "groups": GROUPS,
                    "institution": i,
                    "institutions": len(sizes),
                    "samples": size,
                    "seed": seed,
                },
                group=i % GROUPS,
            ),
            **changed.get(i, {}),
        )
        for i, size in enumerate(sizes)
    )
    setting = Setting(
        name="tiny",
        title="Digits, 4 institutions",
        seats=everyone,
        sgd=Sgd(iterations=20, batch_size=16, learning_rate=0.2),
        rounds=rounds,
        seed=seed,
        economics="cheap",
        data="scikit-learn's digits",
    )
    return dataclasses.replace(setting, **changes)


def silent(number):
    """Say nothing of a round."""
