"""The institution's side of a round: judge the centre that came, train, answer with the model."""

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from numpy.typing import NDArray

from ipfl_flower.market import Terms
from ipfl_flower.trainer.arrays import Arrays
from ipfl_flower.trainer.errors import ArraysError, RequestError, StoreError
from ipfl_flower.trainer.institution import Institution
from ipfl_flower.trainer.learner import Learner
from ipfl_flower.trainer.receipts import Receipts
from ipfl_flower.trainer.store import Kept, Store


@dataclass(frozen=True)
class FitRequest:
    """What the server asks of an institution in a round.

    Attributes
    ----------
    round
        Number of the round, ≥ 0.
    centre
        The prox-centre θ̄_i that the institution bought in its last round; None: it bought nothing.
    initial
        θ⁰, for an institution that has no model of its own yet.
    coefficient
        κ ≥ 0 of κ ‖θ − θ̄_i‖² (mechanism.md §6).
    start
        Whether training starts at the institution's own model or at the centre, where there is one.
    train
        False for the last delivery: the centre is judged, and nothing is trained.
    receipt
        The operator's signed receipt of the last settled round that this institution took part in;
        empty: the message brought none; None: the caller doesn't deal in receipts.

    Raises
    ------
    RequestError
        A value is out of range.
    """

    round: int
    centre: Mapping[str, NDArray[Any]] | None = None
    initial: Mapping[str, NDArray[Any]] | None = None
    coefficient: float = 0.0
    start: Literal["own", "centre"] = "own"
    train: bool = True
    receipt: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        if self.round < 0:
            raise RequestError(f"round must be ≥ 0, is {self.round}")
        if not (math.isfinite(self.coefficient) and self.coefficient >= 0):
            raise RequestError(f"coefficient must be finite and ≥ 0, is {self.coefficient}")
        if self.start not in ("own", "centre"):
            raise RequestError(f"start must be 'own' or 'centre', is {self.start!r}")


@dataclass(frozen=True)
class FitReply:
    """What the institution answers.

    Attributes
    ----------
    arrays
        The trained model θ_i; empty after the last delivery, in which nothing is traded.
    terms
        The institution's terms.
    leaving
        Whether the institution leaves the market.
    metrics
        All finite. ``train_loss`` (mean over the steps); ``validation_accuracy``,
        ``validation_loss``, ``test_accuracy``, ``test_loss`` of the trained model; the same with
        ``centre_`` of the centre that came, with ``kept_`` of the better of that centre and the
        model trained before it, and with ``best_`` of the best over all rounds; of these two also
        ``…_round`` and ``…_centre``, 1 if it was a centre.
        ``centre_unusable`` 1: the centre has no finite loss here and was passed over.
        ``receipt_alarms``: receipts so far that did not fit.
        ``samples_train``, ``samples_validation``, ``samples_test``; ``fit_seconds``.
    """

    arrays: Arrays
    terms: Terms
    leaving: bool
    metrics: dict[str, float]


class Trainer:
    """Serves one institution's requests; all that it must remember is on its disk.

    Parameters
    ----------
    institution
        Whose data, model and terms.
    learner
        Its model and data, where they are in memory already.
    """

    def __init__(self, institution: Institution, learner: Learner | None = None) -> None:
        self._institution = institution
        self._learner = Learner(institution) if learner is None else learner
        self._store = Store(institution.state_dir, institution.name)
        self._receipts = Receipts(
            institution.state_dir, institution.operator_key, institution.on_alarm
        )

    @property
    def institution(self) -> Institution:
        """Whose requests it serves."""
        return self._institution

    @property
    def learner(self) -> Learner:
        """The institution's model and data."""
        return self._learner

    def fit(self, request: FitRequest) -> FitReply:
        """Serve one request, and commit its outcome to disk before answering.

        A request for the round trained last is answered from disk, without training: after a
        crash the server may ask again, and must get the same model.

        Raises
        ------
        RequestError
            The round is over, a model in the request doesn't fit, or one is missing.
        TrainingError
            Training diverged; the state on disk is as before.
        StoreError
            The state on disk is damaged.
        ReceiptError
            A receipt raised an alarm and the institution stops on it, or receipts can't be kept.
        """
        began = time.perf_counter()
        state = self._store.state()
        last = state.trained
        if last is not None and request.round < last.round:
            raise RequestError(
                f"round {request.round} was asked for, but {self._institution.name} has trained "
                f"round {last.round}: a new market needs an empty state_dir"
            )
        alarms = self._receipts.take(
            request.receipt, request.round, centre=request.centre is not None
        )
        if last is not None and request.train and request.round == last.round:
            return self._reply(request, self._own(last), state.metrics)

        candidates: dict[str, Mapping[str, NDArray[Any]]] = {}
        metrics = self._learner.sizes | {"receipt_alarms": float(alarms)}
        best, trained = state.best, last
        centre = self._checked(request.centre, "centre")
        if centre is not None:
            scores = self._learner.scores(centre)
            if scores is None:
                metrics["centre_unusable"] = 1.0
                centre = None
            else:
                # What was bought belongs to the round it was traded in, this institution's last.
                origin = request.round if last is None else last.round
                sent = Kept(
                    file=state.new_file("centre"), round=origin, source="centre", scores=scores
                )
                candidates[sent.file] = centre
                metrics |= scores.named("centre_") | _named(_better(sent, last), "kept_")
                best = _better(sent, best)
        arrays: Arrays = {}
        if request.train:
            arrays, loss = self._train(request, last, centre)
            scores = self._learner.trained_scores(arrays, round_number=request.round)
            trained = Kept(
                file=state.new_file("trained"), round=request.round, source="trained", scores=scores
            )
            candidates[trained.file] = arrays
            metrics |= {"train_loss": loss} | scores.named("")
            best = _better(trained, best)
        if best is not None:
            metrics |= _named(best, "best_")
        metrics["fit_seconds"] = time.perf_counter() - began
        if trained != last or best != state.best:
            replied = metrics if request.train else state.metrics
            new = state.model_copy(update={"trained": trained, "best": best, "metrics": replied})
            self._store.commit(new, candidates)
        return self._reply(request, arrays, metrics)

    def _reply(self, request: FitRequest, arrays: Arrays, metrics: Mapping[str, float]) -> FitReply:
        """Answer with the terms as they are now, also to a round asked for again."""
        if request.train:
            self._receipts.report(request.round, self._institution.terms)
        return FitReply(
            arrays=arrays,
            terms=self._institution.terms,
            leaving=self._institution.leaving,
            metrics=dict(metrics),
        )

    def _train(
        self, request: FitRequest, last: Kept | None, centre: Mapping[str, NDArray[Any]] | None
    ) -> tuple[Arrays, float]:
        """Train from the start that the request and the state on disk decide."""
        start: Mapping[str, NDArray[Any]] | None
        if centre is not None and request.start == "centre":
            start = centre
        elif last is not None:
            start = self._own(last)
        else:
            start = self._checked(request.initial, "initial model")
        if start is None:
            raise RequestError(
                f"{self._institution.name} has no model yet, and round {request.round} brings no "
                "initial one: send it, or restore the institution's state_dir"
            )
        return self._learner.train(
            start, round_number=request.round, centre=centre, coefficient=request.coefficient
        )

    def _own(self, last: Kept) -> Arrays:
        """Read the model trained last."""
        arrays = self._store.model(last)
        try:
            self._learner.check(arrays)
        except ArraysError as error:
            raise StoreError(
                f"{self._institution.state_dir / last.file} isn't a model of this task ({error}): "
                "undo the change of [task], or set an empty state_dir"
            ) from error
        return arrays

    def _checked(
        self, arrays: Mapping[str, NDArray[Any]] | None, what: str
    ) -> Mapping[str, NDArray[Any]] | None:
        """Return a model that the request brought, checked."""
        if arrays is not None:
            try:
                self._learner.check(arrays)
            except ArraysError as error:
                raise RequestError(
                    f"the {what} sent to {self._institution.name} doesn't fit its task: {error}"
                ) from error
        return arrays


def _better(candidate: Kept, rival: Kept | None) -> Kept:
    """Return the better of two by the validation data; if they are equal, the rival."""
    return candidate if rival is None or candidate.scores.beats(rival.scores) else rival


def _named(kept: Kept, prefix: str) -> dict[str, float]:
    """Return what is known of a kept model, as metrics."""
    origin = {
        f"{prefix}round": float(kept.round),
        f"{prefix}centre": float(kept.source == "centre"),
    }
    return kept.scores.named(prefix) | origin
