"""What travels in Flower messages: typed requests and replies, to and from records.

Each direction carries one ArrayRecord and one ConfigRecord under the same keys, so that Flower's
own mods (clipping, local differential privacy) work on them; metrics travel beside the model.
"""

import json
import math
import re
import reprlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from flwr.app import ConfigRecord, Message, MetricRecord, RecordDict
from numpy.typing import NDArray

from ipfl_flower.compatibility import VERSION, End, mismatch
from ipfl_flower.logs import short, usable_id
from ipfl_flower.market import Terms, TermsError
from ipfl_flower.wire import ProtocolError, array_record, read_arrays

__all__ = [
    "METRICS_MAX",
    "PROTOCOL",
    "Arrays",
    "ProtocolError",
    "Reply",
    "Request",
    "Role",
    "array_record",
    "request_id",
]

PROTOCOL: Final = 1
"""Of requests and replies; counts up with every change that the other end must know of."""

Arrays = dict[str, NDArray[Any]]

Role = Literal["initial", "centre", "none"]

ARRAYS, CONFIG, METRICS = "arrays", "config", "metrics"
METRICS_MAX = 64
REASON_LENGTH_MAX = 500
NAME_LENGTH_MAX = 200

_SPEAKS: Final[dict[str, int | str]] = {"protocol": PROTOCOL, "version": VERSION}
_UPGRADE_SERVER: Final = "upgrade the server"
_UPGRADE_INSTITUTION: Final = (
    "upgrade the SuperNode's bundle (ipfl allow DIR HASH, with the hash that ipfl run prints)"
)


@dataclass(frozen=True)
class Request:
    """What the server asks of an institution in a round.

    Attributes
    ----------
    round : int
    train : bool
        False for the last delivery: judge the centre, don't train.
    role : {"initial", "centre", "none"}
        What `arrays` holds: θ⁰ for a newcomer, the prox-centre θ̄_i of a buyer who paid, nothing.
    arrays : mapping of str to ndarray
        What is not in memory is read a tensor at a time.
    coefficient : float
        Of ‖θ − θ̄‖² in the local objective (mechanism.md §6).
    start : {"own", "centre"}
    statement : mapping
        The signed receipt of the last settled round, see `receipts.SignedReceipt`; {} at first.
    task : str
        What the market calls the task that is asked for; "": it doesn't say.
    market, institution : str
        For the institution's logs alone: which market asks, and what it calls the institution. "":
        the server doesn't say, or not so that a log could show it.
    """

    round: int
    train: bool
    role: Role
    arrays: Mapping[str, NDArray[Any]]
    coefficient: float
    start: Literal["own", "centre"]
    statement: Mapping[str, Any] = field(default_factory=dict)
    task: str = ""
    market: str = ""
    institution: str = ""

    def to_records(self) -> RecordDict:
        """Return the content of the Flower message."""
        config = ConfigRecord(
            {
                **_SPEAKS,
                "round": self.round,
                "train": self.train,
                "role": self.role,
                "coefficient": self.coefficient,
                "start": self.start,
                "statement": json.dumps(dict(self.statement)),
                "task": self.task,
                "market": self.market,
                "institution": self.institution,
            }
        )
        return RecordDict({ARRAYS: array_record(self.arrays), CONFIG: config})

    @classmethod
    def from_records(cls, content: RecordDict) -> "Request":
        """Read the content of a Flower message at the institution.

        The arrays stay in it: Flower's mods (clipping, differential privacy) look at them again
        after the ClientApp.

        Raises
        ------
        ProtocolError
            If the server speaks another protocol, or a field is missing or of another kind.
        """
        config = _config(content)
        _require_same(
            End.heard("server", config.get("protocol"), config.get("version"), _UPGRADE_SERVER),
            End("this institution", PROTOCOL, VERSION, _UPGRADE_INSTITUTION),
        )
        role, start = _get(config, "role", str), _get(config, "start", str)
        if role not in ("initial", "centre", "none") or start not in ("own", "centre"):
            raise ProtocolError(f"request: role {role!r} or start {start!r} is unknown")
        return cls(
            round=_get(config, "round", int),
            train=_get(config, "train", bool),
            role=role,
            arrays=_arrays(content, keep=True),
            coefficient=_get(config, "coefficient", float),
            start=start,
            statement=_object(_get(config, "statement", str)),
            task=_get(config, "task", str),
            market=usable_id(config.get("market")),
            institution=_name(config.get("institution")),
        )


@dataclass(frozen=True)
class Reply:
    """What an institution answers: its model, its terms, its own metrics, stay or leave.

    Attributes
    ----------
    round : int
    arrays : mapping of str to ndarray
        θ_i after local training; empty after the last delivery.
    terms : Terms
    leaving : bool
        It trades no more from this round on.
    metrics : dict of str to float
        At most `METRICS_MAX`, all finite.
    """

    round: int
    arrays: Mapping[str, NDArray[Any]]
    terms: Terms
    leaving: bool
    metrics: dict[str, float]

    def to_records(self) -> RecordDict:
        """Return the content of the Flower message."""
        terms = self.terms
        config = ConfigRecord(
            {
                **_SPEAKS,
                "round": self.round,
                "samples": terms.samples,
                "cost": float(terms.cost),
                "eagerness": float(terms.eagerness),
                "budget": float(terms.budget),
                "leaving": self.leaving,
            }
        )
        metrics = MetricRecord({name: float(value) for name, value in self.metrics.items()})
        return RecordDict({ARRAYS: array_record(self.arrays), CONFIG: config, METRICS: metrics})

    @classmethod
    def from_message(cls, message: Message, *, round_number: int) -> "Reply":
        """Read and check a reply at the server.

        The model is taken out of `message`, whatever comes of it: whoever still holds the message
        does not hold the model.

        Parameters
        ----------
        message : Message
        round_number : int
            The round that was asked for.

        Raises
        ------
        ProtocolError
            If the reply is an error, of another protocol or another round, or a field is missing,
            of another kind or out of its range. The model is checked by the bank that it is put in.
        """
        if message.has_error():
            raise ProtocolError(f"the institution failed: {_reason(message.error.reason)}")
        content = message.content
        try:
            return cls._read(content, round_number)
        finally:
            for record in content.array_records.values():
                record.clear()

    @classmethod
    def _read(cls, content: RecordDict, round_number: int) -> "Reply":
        config = _config(content)
        protocol, version = config.get("protocol"), config.get("version")
        _require_same(
            End.heard("the institution", protocol, version, _UPGRADE_INSTITUTION),
            End("this server", PROTOCOL, VERSION, _UPGRADE_SERVER),
        )
        number = _get(config, "round", int)
        if number != round_number:
            raise ProtocolError(f"reply of round {number}, asked was round {round_number}")
        try:
            terms = Terms(
                samples=_get(config, "samples", int),
                cost=_get(config, "cost", float),
                eagerness=_get(config, "eagerness", float),
                budget=_get(config, "budget", float),
            )
        except TermsError as error:
            raise ProtocolError(str(error)) from error
        return cls(
            round=number,
            arrays=_arrays(content, keep=False),
            terms=terms,
            leaving=_get(config, "leaving", bool),
            metrics=_metrics(content),
        )


def request_id(message_id: str) -> str:
    """Return what logs call the request that a Flower message is, at both of its ends."""
    return short(message_id)


def _name(value: object) -> str:
    return value if isinstance(value, str) and len(value) <= NAME_LENGTH_MAX else ""


def _arrays(content: RecordDict, *, keep: bool) -> Arrays:
    record = content.array_records.get(ARRAYS)
    if record is None:
        raise ProtocolError(f"the message holds no ArrayRecord {ARRAYS!r}")
    return read_arrays(record, keep=keep)


def _config(content: RecordDict) -> ConfigRecord:
    record = content.config_records.get(CONFIG)
    if record is None:
        raise ProtocolError(f"the message holds no ConfigRecord {CONFIG!r}")
    return record


def _require_same(theirs: End, ours: End) -> None:
    if (line := mismatch(theirs, ours)) is not None:
        raise ProtocolError(line)


def _get(config: ConfigRecord, name: str, kind: type[Any]) -> Any:
    """Return the value of `name`, which must be exactly of `kind` (a bool is no int)."""
    value = config.get(name)
    if type(value) is not kind:
        raise ProtocolError(f"field {name!r} must be {kind.__name__}, is {reprlib.repr(value)}")
    return value


def _metrics(content: RecordDict) -> dict[str, float]:
    record = content.metric_records.get(METRICS)
    if record is None:
        raise ProtocolError(f"the message holds no MetricRecord {METRICS!r}")
    if len(record) > METRICS_MAX:
        raise ProtocolError(f"{len(record)} metrics, at most {METRICS_MAX} are taken")
    metrics: dict[str, float] = {}
    for name, value in record.items():
        if isinstance(value, list) or not math.isfinite(value):
            raise ProtocolError(
                f"metric {name!r} must be one finite number, is {reprlib.repr(value)}"
            )
        metrics[name] = float(value)
    return metrics


def _object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise ProtocolError(f"field 'statement' is no JSON: {error}") from error
    if not isinstance(value, dict):
        raise ProtocolError("field 'statement' must be a JSON object")
    return value


def _reason(text: str | None) -> str:
    """Say an error of a ClientApp in one line: Flower writes ``<class 'x.YError'>:<'text'>``."""
    whole = " ".join((text or "no reason given").split())
    wrapped = re.fullmatch(r"<class '([\w.]+)'>:<'(.*)'>", whole)
    if wrapped:
        whole = f"{wrapped[1].rsplit('.', 1)[-1]}: {wrapped[2]}"
    # It is somebody else's text, and reaches terminals.
    shown = (sign if sign.isprintable() else repr(sign)[1:-1] for sign in whole[:REASON_LENGTH_MAX])
    return "".join(shown)[:REASON_LENGTH_MAX]
