"""The paper's CNN on CIFAR-10 and Fashion-MNIST, in three splits.

The paper's η, 5, is absolute; here it is relative to ‖v‖² and capped, see `settings.paper`.
"""

from typing import Any, Final

from ipfl_flower.experiment.definition import Choice, Setting
from ipfl_flower.experiment.settings.paper import folder, paper_setting, sgd_of, slices

GROUPS: Final = 3
BETA: Final = 0.1
CLASSES_HELD: Final = 5
_NIID: Final = {"split": "dirichlet", "beta": BETA}
_CLUSTER: Final = {
    "split": "clusters",
    "cluster_by": "dirichlet",
    "groups": GROUPS,
    "beta": BETA,
}
_SKEW: Final = {"split": "skew", "classes": CLASSES_HELD}
_QUICK_TOTAL: Final = 2000  # images that are shared out


def cifar10_niid(choice: Choice) -> Setting:
    """Ten institutions by Dirichlet(0.1); the paper gives λ and η on Fashion-MNIST alone."""
    return _setting(choice, "cifar10", "niid", _NIID, 10, 0.001)


def cifar10_cluster(choice: Choice) -> Setting:
    """Nine institutions in three groups, each with its own share of the classes."""
    return _setting(choice, "cifar10", "cluster", _CLUSTER, 9, 2.0)


def cifar10_skew(choice: Choice) -> Setting:
    """Ten institutions with five of the ten classes each."""
    return _setting(choice, "cifar10", "skew", _SKEW, 10, 1.0)


def fashion_niid(choice: Choice) -> Setting:
    """Ten institutions by Dirichlet(0.1)."""
    return _setting(choice, "fashion", "niid", _NIID, 10, 0.001)


def fashion_cluster(choice: Choice) -> Setting:
    """Nine institutions in three groups; λ and η as on CIFAR-10, for the paper gives none."""
    return _setting(choice, "fashion", "cluster", _CLUSTER, 9, 2.0)


def fashion_skew(choice: Choice) -> Setting:
    """Ten institutions with five of the ten classes each."""
    return _setting(choice, "fashion", "skew", _SKEW, 10, 1.0)


_TASKS: Final = {
    "cifar10": "cifar10",
    "fashion": "ipfl_flower.experiment.standardised:StandardisedFashion",
}
# What has to be in a given folder: Debian's package is another place, CIFAR-10 has none.
_FILES: Final = {"fashion": "train-images-idx3-ubyte.gz"}
_NAMES: Final = {
    "cifar10": "CIFAR-10",
    "fashion": "Fashion-MNIST",
    "niid": "Dirichlet(0.1)",
    "cluster": "3 groups by Dirichlet(0.1)",
    "skew": "5 of 10 classes each",
}


def _setting(
    choice: Choice, data: str, kind: str, split: dict[str, Any], count: int, weight: float
) -> Setting:
    # Slices are of very different sizes: fixed ones would leave most of the data out.
    options: dict[str, Any] = {**split, "name": _TASKS[data], "proportional": True}
    options |= folder(choice, _FILES.get(data))
    options["model"] = "cnn" if choice.quick else "lenet"
    if choice.quick:
        options["total"] = _QUICK_TOTAL
    return paper_setting(
        choice,
        f"{data}_{kind}",
        f"{_NAMES[data]}, {_NAMES[kind]}, {count} institutions",
        slices(count, **options),
        sgd=sgd_of(choice, 200),
        distance_weight=weight,
        eta=5.0,
        groups=[i % GROUPS for i in range(count)] if kind == "cluster" else None,
    )
