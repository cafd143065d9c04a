"""What is asked of a trainer and what it answers, as values, and as they travel."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from numpy.typing import NDArray

from ipfl_flower.logs import usable_id
from ipfl_flower.market import Terms, TermsError
from ipfl_flower.trainer_api import trainer_pb2 as pb
from ipfl_flower.trainer_api.errors import WireError
from ipfl_flower.trainer_api.speaker import require_trainer, speaker
from ipfl_flower.trainer_api.tensors import (
    Arrays,
    Layout,
    layout_message,
    layout_of,
    read_layout,
)

MARKET_KEY: Final = "ipfl-market"
REQUEST_KEY: Final = "ipfl-request"


@dataclass(frozen=True)
class FitCall:
    """One request of the market.

    Attributes
    ----------
    round : int
    train : bool
        False for the last delivery: the model is judged, and nothing is trained.
    role : {"initial", "centre", "none"}
        What `arrays` holds.
    arrays : mapping of str to ndarray
    coefficient : float
        Of ‖θ − θ̄‖² in the local objective (mechanism.md §6).
    start : {"own", "centre"}
    statement : mapping
        The receipt that the market's message brought; empty: it brought none.
    task : str
        The task that the market asks for; "": it doesn't say.
    market, request : str
        What logs call the market and this request; "": not known. They go beside the protocol, as
        gRPC metadata: who doesn't know them passes them over.
    """

    round: int
    train: bool = True
    role: Literal["initial", "centre", "none"] = "none"
    arrays: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    coefficient: float = 0.0
    start: Literal["own", "centre"] = "own"
    statement: Mapping[str, Any] = field(default_factory=dict)
    task: str = ""
    market: str = ""
    request: str = ""

    def metadata(self) -> list[tuple[str, str]]:
        """Return what gRPC carries beside the messages."""
        named = {MARKET_KEY: self.market, REQUEST_KEY: self.request}
        return [(key, value) for key, value in named.items() if usable_id(value)]

    def header(self) -> pb.FitHeader:
        """Return all but the model's bytes."""
        return pb.FitHeader(
            round=self.round,
            train=self.train,
            role=self.role,
            coefficient=self.coefficient,
            start=self.start,
            statement=json.dumps(dict(self.statement)),
            task=self.task,
            layout=layout_message(layout_of(self.arrays)).SerializeToString(),
            speaker=speaker(),
        )


@dataclass(frozen=True)
class FitAnswer:
    """What the trainer answers: the model, the terms, its own metrics, stay or leave."""

    arrays: Arrays
    terms: Terms
    leaving: bool
    metrics: dict[str, float]


@dataclass(frozen=True)
class Progress:
    """How far a request is.

    Attributes
    ----------
    phase : str
        "waiting", "loading", "receiving" (bytes) or "fitting" (SGD steps).
    done, of : int
        0 of 0: not known.
    seconds : float
        Since the trainer got the request.
    """

    phase: str
    done: int
    of: int
    seconds: float


@dataclass(frozen=True)
class Description:
    """What a trainer is.

    Attributes
    ----------
    name : str
        The institution.
    versions : dict of str to str
        Of ipfl-flower and torch.
    task : str
    layout : dict of str to Spec
        The model that it takes and gives.
    terms : Terms
    leaving : bool
    device : str
    """

    name: str
    versions: dict[str, str]
    task: str
    layout: Layout
    terms: Terms
    leaving: bool
    device: str

    def message(self) -> pb.DescribeReply:
        """Return it as it travels."""
        return pb.DescribeReply(
            name=self.name,
            versions=self.versions,
            task=self.task,
            layout=layout_message(self.layout),
            terms=terms_message(self.terms),
            leaving=self.leaving,
            device=self.device,
            speaker=speaker(),
        )

    @classmethod
    def read(cls, message: pb.DescribeReply) -> "Description":
        """Read what came.

        Raises
        ------
        IncompatibleError, WireError
        """
        require_trainer(message.speaker)
        return cls(
            name=message.name,
            versions=dict(message.versions),
            task=message.task,
            layout=read_layout(message.layout),
            terms=read_terms(message.terms),
            leaving=message.leaving,
            device=message.device,
        )


def read_metadata(given: Iterable[tuple[str, str | bytes]] | None) -> dict[str, str]:
    """Return what gRPC's metadata says of a request, by the fields of a log; "": nothing usable."""
    found = dict(given or ())
    return {
        "market": usable_id(found.get(MARKET_KEY)),
        "request": usable_id(found.get(REQUEST_KEY)),
    }


def terms_message(terms: Terms) -> pb.Terms:
    """Return terms as they travel."""
    return pb.Terms(
        samples=terms.samples, cost=terms.cost, eagerness=terms.eagerness, budget=terms.budget
    )


def read_terms(message: pb.Terms) -> Terms:
    """Read terms.

    Raises
    ------
    WireError
    """
    try:
        return Terms(
            samples=int(message.samples),
            cost=message.cost,
            eagerness=message.eagerness,
            budget=message.budget,
        )
    except TermsError as error:
        raise WireError(f"the trainer's terms: {error}") from error
