"""The institution's side of a round: judge the centre that came, train, answer with the model."""

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from numpy.typing import NDArray

from ipfl_flower.market import Terms
from ipfl_flower.trainer.arrays import Arrays
from ipfl_flower.trainer.errors import ArraysError, LimitError, RequestError
from ipfl_flower.trainer.institution import Institution
from ipfl_flower.trainer.learner import Learner, Scores
from ipfl_flower.trainer.limits import of_last_day
from ipfl_flower.trainer.receipts import Receipts
from ipfl_flower.trainer.store import Kept, State, Store
from ipfl_flower.trainer.upload import add_noise, clip, noise_seed

_NO_ORIGIN = (
    "limits.clip_norm needs the initial model, which was not kept when this institution joined: "
    "set it with an empty state_dir, at the start of a market"
)


@dataclass(frozen=True)
class FitRequest:
    """What the server asks of an institution in a round.

    Its arrays hold what the task shares. They may be read-only, aren't written, and must not change
    until the request is served: the centre is used where it lies.

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
        The trained model θ_i, as far as the task shares it: read-only views on the trainer's own
        memory, valid until its next request. Empty after the last delivery, in which nothing is
        traded.
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
        ``samples_train``, ``samples_validation``, ``samples_test``; ``fit_seconds``, of all of the
        request. ``samples_per_second`` while training, and on a GPU ``gpu_memory_bytes``, the most
        that tensors took there.
    """

    arrays: Arrays
    terms: Terms
    leaving: bool
    metrics: dict[str, float]


class Trainer:
    """Serves one institution's requests, one at a time; what it must remember is on its disk.

    Its memory is that of one model, the centre in the request, the largest gradient and, with
    momentum, the velocities: about two models, or three; with AdamW, whose moments are two, four.

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
        LimitError
            The institution's limits don't allow it.
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
            self._store.read(last.file, self._learner.shared)
            return self._reply(request, state, state.metrics)
        if request.train:
            state = self._begun(state, request)

        candidates: dict[str, Mapping[str, NDArray[Any]]] = {}
        metrics = self._learner.sizes | {"receipt_alarms": float(alarms)}
        best, trained = state.best, last
        self._restore_private(last)
        centre = self._checked(request.centre, "centre")
        if centre is not None:
            self._learner.put(centre)
            scores = self._learner.scores()
            if scores is None:
                metrics["centre_unusable"] = 1.0
                centre = None
            else:
                sent = _sent(request, state, scores)
                candidates[sent.file] = centre
                metrics |= scores.named("centre_") | _named(_better(sent, last), "kept_")
                best = _better(sent, best)
        if request.train:
            initial = self._checked(request.initial, "initial model")
            if initial is not None and state.initial is None:
                state = state.model_copy(update={"initial": state.new_file("initial")})
                candidates[state.new_file("initial")] = initial
            loss = self._train(request, last, centre)
            scores = self._learner.trained_scores(round_number=request.round)
            private = self._learner.private_arrays()
            trained = Kept(
                file=state.new_file("trained"),
                private=state.new_file("private") if private else None,
                round=request.round,
                source="trained",
                scores=scores,
            )
            candidates[trained.file] = self._learner.arrays()
            candidates |= {state.new_file("private"): private}
            metrics |= {"train_loss": loss} | scores.named("") | self._learner.effort
            best = _better(trained, best)
        if best is not None:
            metrics |= _named(best, "best_")
        metrics["fit_seconds"] = time.perf_counter() - began
        if trained != last or best != state.best:
            replied = metrics if request.train else state.metrics
            state = state.model_copy(update={"trained": trained, "best": best, "metrics": replied})
            self._store.commit(state, candidates)
        return self._reply(request, state, metrics)

    def _reply(self, request: FitRequest, state: State, metrics: Mapping[str, float]) -> FitReply:
        """Answer with the model in memory, and the terms as they are now, also when asked again."""
        if request.train:
            self._receipts.report(request.round, self._institution.terms)
            self._protect(request.round, state)
        return FitReply(
            arrays=self._learner.arrays() if request.train else {},
            terms=self._institution.terms,
            leaving=self._institution.leaving,
            metrics=dict(metrics) if self._institution.limits.share_metrics else {},
        )

    def _protect(self, number: int, state: State) -> None:
        """Clip and blur the model in memory as the limits say; that on the disk stays as it is."""
        limits, shared = self._institution.limits, self._learner.shared
        if limits.clip_norm is not None:
            if state.initial is None:
                raise LimitError(_NO_ORIGIN)
            origin = {name: torch.empty_like(tensor) for name, tensor in shared.items()}
            self._store.read(state.initial, origin)
            clip(shared, origin, limits.clip_norm)
        if limits.noise_std > 0:
            seed = noise_seed(self._institution.state_dir, number, limits)
            add_noise(shared, limits.noise_std, seed)

    def _begun(self, state: State, request: FitRequest) -> State:
        """Check the limits before anything is trained, and note that a round is begun."""
        limits = self._institution.limits
        if limits.clip_norm is not None and state.initial is None and request.initial is None:
            raise LimitError(_NO_ORIGIN)
        if limits.rounds_a_day is None:
            return state
        begun = of_last_day(state.begun)
        limits.require_round(begun)
        # On the disk before it is trained: one that fails, or is cut off, was one, too.
        return self._store.commit(
            state.model_copy(update={"begun": [*begun, time.time()]}), models={}
        )

    def _restore_private(self, last: Kept | None) -> None:
        """Put the private part of the model trained last in place."""
        if last is not None and last.private is not None:
            self._store.read(last.private, self._learner.private)
        else:
            self._learner.renew()

    def _train(
        self, request: FitRequest, last: Kept | None, centre: Mapping[str, NDArray[Any]] | None
    ) -> float:
        """Train from the start that the request and the state on disk decide."""
        if centre is not None and request.start == "centre":
            self._learner.put(centre)
        elif last is not None:
            self._store.read(last.file, self._learner.shared)
        elif (initial := self._checked(request.initial, "initial model")) is not None:
            self._learner.put(initial)
        else:
            raise RequestError(
                f"{self._institution.name} has no model yet, and round {request.round} brings no "
                "initial one: send it, or restore the institution's state_dir"
            )
        return self._learner.train(
            round_number=request.round, centre=centre, coefficient=request.coefficient
        )

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


def _sent(request: FitRequest, state: State, scores: Scores) -> Kept:
    """Describe the centre that came; it is judged with the private part trained last."""
    last = state.trained
    return Kept(
        file=state.new_file("centre"),
        private=None if last is None else last.private,
        # What was bought belongs to the round it was traded in, this institution's last.
        round=request.round if last is None else last.round,
        source="centre",
        scores=scores,
    )


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
