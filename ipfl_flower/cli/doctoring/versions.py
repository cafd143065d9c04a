"""Which versions are installed here, and whether they fit each other and the other side's."""

from importlib.metadata import requires

from ipfl_flower.cli.doctoring.finding import Verdict, ok, warn
from ipfl_flower.cli.versions import own_versions

_PIN = "flwr=="


def versions_here(wanted: str, versions: dict[str, str] | None = None) -> Verdict:
    """Tell whether Flower's version is the one that ipfl-flower was built for.

    Parameters
    ----------
    wanted : str
        What else is known of these versions.
    versions : dict of str to str, optional
        By package; those installed here.
    """
    versions = own_versions() if versions is None else versions
    line = ", ".join(f"{package} {number}" for package, number in versions.items())
    pin = next(item for item in requires("ipfl-flower") or () if item.startswith(_PIN))
    pinned = pin.removeprefix(_PIN).partition(";")[0].strip()
    if versions["flwr"] != pinned:
        return warn(
            f"{line}: this ipfl-flower is made for flwr {pinned}: pip install flwr=={pinned}"
        )
    return ok(f"{line}: {wanted}")
