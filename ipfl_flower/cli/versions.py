"""Which versions work together: those of one series, 1.39.0 with 1.39.2 but not with 1.40.0."""

from collections.abc import Mapping
from importlib.metadata import version
from typing import Final

from ipfl_flower.cli.documents import KitError

PACKAGES: Final = ("ipfl-flower", "flwr")


def own_versions() -> dict[str, str]:
    """Return the versions that are installed here, by package."""
    return {package: version(package) for package in PACKAGES}


def check_versions(theirs: Mapping[str, str], who: str) -> None:
    """Refuse the versions of `who` that don't work with those installed here.

    Raises
    ------
    KitError
        Names both versions of the first package at fault.
    """
    for package, ours in own_versions().items():
        found = theirs.get(package, "missing")
        if _series(found) != _series(ours):
            raise KitError(
                f"{package} is {found} at {who} and {ours} here: "
                f"install the same series ({'.'.join(_series(ours))}) on both sides"
            )


def _series(text: str) -> list[str]:
    return text.split(".")[:2]
