"""What differs between Flower's versions, as far as it must be known to start one.

The pin is what markets run on (docs/adr/0001); the newest is tried with ``make compat``.
"""

from dataclasses import dataclass
from importlib.metadata import version
from typing import Final


@dataclass(frozen=True)
class FleetApi:
    """How a SuperLink serves SuperNodes.

    Attributes
    ----------
    name : str
        Of the transport.
    own_port : bool
        Whether it has a port for institutions alone; otherwise control and runtime are on it, too.
    """

    name: str
    own_port: bool


GRPC: Final = FleetApi("grpc-rere", own_port=True)  # gRPC, request and response
HTTP: Final = FleetApi("HTTP", own_port=False)
# From which version on, newest first; each holds until the next.
_SINCE: Final = (((1, 40), HTTP), ((1, 39), GRPC))


def fleet_api(flower: str | None = None) -> FleetApi:
    """Return how a version of Flower serves SuperNodes.

    Parameters
    ----------
    flower : str, optional
        Such as ``1.39.0``; the installed one by default.

    Raises
    ------
    ValueError
        If it is older than any that is known here.
    """
    text = flower or version("flwr")
    release = tuple(int(part) for part in text.split(".")[:2])
    for since, api in _SINCE:
        if release >= since:
            return api
    raise ValueError(f"flwr {text} is too old: install flwr 1.39")
