"""The methods that the market is compared with, one a file, on the same institutions and steps.

Without torch, and light to import: the arithmetic is NumPy's, training is behind `Sites`.
"""

from collections.abc import Mapping
from dataclasses import fields

from ipfl_flower.experiment.methods.base import Method, Sites
from ipfl_flower.experiment.methods.cfl import Cfl
from ipfl_flower.experiment.methods.ditto import Ditto
from ipfl_flower.experiment.methods.fedamp import FedAmp
from ipfl_flower.experiment.methods.fedavg import FedAvg, FedAvgFT
from ipfl_flower.experiment.methods.fedfomo import FedFomo
from ipfl_flower.experiment.methods.fedprox import FedProx
from ipfl_flower.experiment.methods.local import Local
from ipfl_flower.experiment.methods.pfedgraph import PFedGraph

__all__ = ["METHODS", "Method", "MethodError", "make"]

METHODS: dict[str, type[Method]] = {
    method.name: method
    for method in (Local, FedAvg, FedAvgFT, FedProx, Ditto, FedAmp, Cfl, FedFomo, PFedGraph)
}


class MethodError(ValueError):
    """A method or an option that doesn't exist."""


def make(name: str, sites: Sites, options: Mapping[str, object] | None = None) -> Method:
    """Return the method `name` on `sites`, with options by name where they aren't the defaults.

    Raises
    ------
    MethodError
        There is no such method, or it has no such option; the message lists those there are.
    """
    if name not in METHODS:
        raise MethodError(f"no method {name!r}; there are: {', '.join(METHODS)}")
    method = METHODS[name]
    known = [field.name for field in fields(method.options_type)]
    unknown = sorted(set(options or {}) - set(known))
    if unknown:
        there = f"there are: {', '.join(known)}" if known else "it has none"
        raise MethodError(f"method {name!r} has no option {', '.join(unknown)}; {there}")
    return method(sites, method.options_type(**(options or {})))
