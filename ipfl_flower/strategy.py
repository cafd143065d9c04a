"""The Flower strategy of the market: drives one round after another through its parts.

A round is a straight line: messages out, replies into the bank and the ledger as they come, one
clearing, one commit; the prox-centres of the buyers who pay leave with the next round's messages
(mechanism.md §7).
"""

import logging
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass

from flwr.app import (
    ArrayRecord,
    ConfigRecord,
    Message,
    MessageType,
    MetricRecord,
    MetricRecordValues,
)
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result, Strategy

from ipfl_flower.exchange import Clock, Exchange
from ipfl_flower.ledger import Ledger, LedgerError, Report
from ipfl_flower.members import Member, Members
from ipfl_flower.models import Layout, ModelBank, ModelError
from ipfl_flower.notary import OPERATOR_KEY, Minutes, Notary
from ipfl_flower.protocol import Arrays, ProtocolError, Reply, Request, Role
from ipfl_flower.receipts import load_or_make_key
from ipfl_flower.settings import Settings
from ipfl_flower.settlement import Delivery, InvariantError, Owed, deliver, settle

logger = logging.getLogger(__name__)

# A message may still be answered a little after the round's deadline.
TTL_MARGIN_S = 60.0


class MarketError(RuntimeError):
    """The market can't go on; the message says why and what to do."""


class IPFL(Strategy):
    """A market, round by round: who imports whose model, at what price, towards which centre.

    Subclass it to change one step: `message` is what an institution is sent, `settle` what a round
    decides, `summary` what is logged at the start.

    Parameters
    ----------
    settings : Settings
    ledger : Ledger
        Open; the caller closes it.
    clock : Clock, optional

    Notes
    -----
    Memory does not grow with the number or the size of the models: messages are made, pushed and
    pulled one at a time, and models go straight into the bank.
    """

    def __init__(self, settings: Settings, ledger: Ledger, clock: Clock | None = None) -> None:
        self.settings = settings
        self.ledger = ledger
        self.members = Members(ledger, settings.samples_max)
        self._notary = Notary(load_or_make_key(settings.receipt_key_file))
        self._clock = clock or Clock()
        self._deadline_s = settings.deadline_s
        self._reference: Arrays = {}
        self._layout: Layout | None = None
        self._owed = Owed()
        self._settled: int | None = None
        self._without_model: set[int] = set()
        self._exchange: Exchange | None = None

    def summary(self) -> None:
        """Log the contract of the market."""
        for name, value in self.settings.contract().items():
            logger.info("%s = %s", name, value)

    def start(
        self,
        grid: Grid,
        initial_arrays: ArrayRecord,
        num_rounds: int | None = None,
        timeout: float | None = None,
        train_config: ConfigRecord | None = None,
        evaluate_config: ConfigRecord | None = None,
        evaluate_fn: object = None,
    ) -> Result:
        """Run the market to its end.

        Parameters
        ----------
        grid : Grid
        initial_arrays : ArrayRecord
            θ⁰, which every newcomer starts from and every update is measured against.
        num_rounds, timeout : optional
            Instead of the settings' `rounds` and `deadline_s`.
        train_config, evaluate_config : ConfigRecord, optional
            Handed to `configure_train` and `configure_evaluate`; the market itself uses neither.
        evaluate_fn : None
            The server has no model of its own to evaluate: not supported.

        Returns
        -------
        Result
            Mean metrics by round; the models stay with the institutions.

        Raises
        ------
        MarketError
            If too few institutions come, or a round ends below its quorum. What earlier rounds
            owe has been sent to whoever is there.
        LedgerError
            If the ledger belongs to another market.
        ModelError
            If θ⁰ can't be shared.
        """
        if evaluate_fn is not None:
            raise MarketError("evaluate_fn: the server of a market has no model to evaluate")
        rounds = self.settings.rounds if num_rounds is None else num_rounds
        self._deadline_s = self.settings.deadline_s if timeout is None else timeout
        self._open_market(initial_arrays)
        self.summary()
        result = Result()
        try:
            self._wait_for(grid, self.settings.institutions_min)
            try:
                self._play(grid, initial_arrays, rounds, train_config or ConfigRecord(), result)
            finally:
                self._deliver_last(
                    grid, initial_arrays, rounds, evaluate_config or ConfigRecord(), result
                )
        finally:
            self._owed.close()
        return result

    def message(self, member: Member, number: int, *, train: bool) -> Message:
        """Make one institution's message: θ⁰ or its centre, its lines, its coefficient.

        Parameters
        ----------
        member : Member
        number : int
            The round.
        train : bool
            False for the last delivery, whose centre is judged and not trained on.
        """
        return Message(
            content=self._request(member.institution, number, train=train).to_records(),
            dst_node_id=member.node,
            message_type=MessageType.TRAIN if train else MessageType.EVALUATE,
            ttl=self._deadline_s + TTL_MARGIN_S,
            group_id=str(number),
        )

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterator[Message]:
        """Yield the round's messages, one at a time."""
        del arrays, config, grid
        for member in self.members:
            yield self.message(member, server_round, train=True)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[None, MetricRecord | None]:
        """Take the replies in as they come, then settle the round.

        Raises
        ------
        MarketError
            If fewer than the quorum replied with a usable model, and that not because
            institutions left; the round is abandoned.
        """
        bank = self._new_bank(server_round)
        with ExitStack() as on_error:
            on_error.callback(bank.close)
            reports = self._collect(server_round, replies, bank)
            fault = self._short_of_quorum(server_round, reports)
            if fault is not None:
                self._abandon(server_round, fault, bank)
                if fault.by_silence:
                    raise MarketError(fault.reason)
            else:
                self._settle_or_abandon(server_round, reports, bank)
            on_error.pop_all()
        return None, _mean(report.metrics for report in reports.values())

    def settle(self, number: int, reports: Mapping[int, Report], bank: ModelBank) -> Delivery:
        """Clear the market, commit the round, and only then compute the centres.

        Raises
        ------
        InvariantError
            If the clearing violates mechanism.md §8: nothing has been committed.
        """
        gram = bank.gram()
        settlement = settle(number, reports, gram, self.settings)
        self.ledger.commit(settlement)
        minutes = Minutes.of(self.ledger, settlement)
        return deliver(minutes, gram, bank, self.settings, self._notary)

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterator[Message]:
        """Yield the last delivery: the centres that are owed, to be judged, not trained on."""
        del arrays, config, grid
        for member in self.members:
            yield self.message(member, server_round, train=False)

    def aggregate_evaluate(
        self, server_round: int, replies: Iterable[Message]
    ) -> MetricRecord | None:
        """Record how each institution judges what it has in the end."""
        metrics: list[Mapping[str, float]] = []
        for message in replies:
            member = self._sender(message)
            if member is None:
                continue
            try:
                reply = Reply.from_message(message, round_number=server_round)
            except ProtocolError as error:
                logger.warning("last delivery: %s: %s", member.name, error)
                self.ledger.log_event("failed", f"last delivery: {member.name}: {error}")
                continue
            self.ledger.acknowledge(server_round, member.institution, reply.metrics)
            self._owed.taken(member.institution)
            metrics.append(reply.metrics)
        return _mean(metrics)

    def _play(
        self, grid: Grid, initial: ArrayRecord, rounds: int, config: ConfigRecord, result: Result
    ) -> None:
        """Play the rounds; stop early, and say so, when too many institutions have left."""
        for number in range(rounds):
            if not self._wait_for(grid, self.settings.quorum):
                self.ledger.log_event(
                    "ended early", f"before round {number}: {self.members.left} institutions left"
                )
                return
            ids, quorum = self.members.ids, self.settings.quorum
            self.ledger.open_round(number, ids, self._deadline_s, quorum)
            self._exchange = self._new_exchange(grid, number, train=True)
            refused = self._exchange.send(self.configure_train(number, initial, config, grid))
            self._delivered()
            self.ledger.collect(number)
            for node in refused:
                self._refuse(number, self.members.of_node(node), "its SuperNode is not registered")
            _, metrics = self.aggregate_train(number, self._exchange.replies())
            result.train_metrics_clientapp[number] = metrics or MetricRecord()

    def _deliver_last(
        self, grid: Grid, initial: ArrayRecord, number: int, config: ConfigRecord, result: Result
    ) -> None:
        """Send what is still owed, when there is no next round to send it with."""
        self._wait_for_buyers(grid)
        self._exchange = self._new_exchange(grid, number, train=False)
        self._exchange.send(self.configure_evaluate(number, initial, config, grid))
        self._delivered()
        metrics = self.aggregate_evaluate(number, self._exchange.replies())
        result.evaluate_metrics_clientapp[number] = metrics or MetricRecord()
        names = {item.id: item.name for item in self.ledger.institutions()}
        for institution in self._owed.buyers():
            self.ledger.log_event("undelivered", f"{names[institution]} has not taken its centre")

    def _open_market(self, initial: ArrayRecord) -> None:
        self._reference = {name: array.numpy() for name, array in initial.items()}
        self._layout = Layout.of(self._reference)
        self._layout.check(self._reference)
        state = self.ledger.state()
        if state is not None:
            raise MarketError(
                f"the ledger {self.settings.ledger} holds a market up to round {state.number}: "
                "name a new ledger file for a new market"
            )
        folder = self.settings.models_dir
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.chmod(0o700)
        for stale in folder.glob("round-*.bank*"):
            stale.unlink()
        recorded = {"layout": self._layout.digest, OPERATOR_KEY: self._notary.public_key}
        self.ledger.begin({**self.settings.contract(), **recorded})

    def _wait_for(self, grid: Grid, least: int) -> bool:
        """Read who is online until there are at least `least`, or a quorum if that is more.

        Returns
        -------
        bool
            False if that will not be because institutions have left.
        """
        end = self._clock.monotonic() + self.settings.join_deadline_s
        least = max(least, self.settings.quorum)
        self.members.refresh(grid)
        while len(self.members) < least:
            if self.members.left and len(self.members) + self.members.left >= least:
                return False
            if self._clock.monotonic() > end:
                names = ", ".join(member.name for member in self.members) or "none"
                refused = "".join(f"; {reason}" for reason in self.members.refused.values())
                raise MarketError(
                    f"{len(self.members)} of {least} institutions came within "
                    f"{self.settings.join_deadline_s:g} s ({names}): start the missing SuperNodes, "
                    f"or lower institutions-min and quorum{refused}"
                )
            self._clock.sleep(self.settings.poll_s)
            self.members.refresh(grid)
        return True

    def _wait_for_buyers(self, grid: Grid) -> None:
        """Give buyers who paid and are away a little time to come back for their centres."""
        end = self._clock.monotonic() + self.settings.absence_s
        self.members.refresh(grid)
        while any(self.members.get(i) is None for i in self._owed.buyers()):
            if self._clock.monotonic() > end:
                return
            self._clock.sleep(self.settings.poll_s)
            self.members.refresh(grid)

    def _new_exchange(self, grid: Grid, number: int, *, train: bool) -> Exchange:
        def remake(node: int) -> Message | None:
            member = self.members.of_node(node)
            if member is None:
                return None
            self.ledger.log_event("resent", f"round {number}: {member.name} restarted")
            return self.message(member, number, train=train)

        settings = self.settings
        return Exchange(
            grid, self._deadline_s, settings.absence_s, settings.poll_s, remake, self._clock
        )

    def _new_bank(self, number: int) -> ModelBank:
        assert self._layout is not None  # noqa: S101 - start() has opened the market
        path = self.settings.models_dir / f"round-{number:06d}.bank"
        rows = len(self.ledger.institutions())
        return ModelBank(path, self._layout, rows, self._reference)

    def _request(self, institution: int, number: int, *, train: bool) -> Request:
        delivery = self._owed.get(institution)
        role: Role = "none"
        arrays: Arrays = {}
        coefficient = 0.0
        if delivery is not None and institution in delivery.etas:
            role, arrays = "centre", delivery.bank.centre(institution)
            coefficient = self._coefficient(delivery.etas[institution])
        elif institution in self._without_model or not self.ledger.has_reported(institution):
            role, arrays = "initial", self._reference
        return Request(
            round=number,
            train=train,
            role=role,
            arrays=arrays,
            coefficient=coefficient,
            start=self.settings.start,
            statement={} if delivery is None else delivery.statement(institution),
        )

    def _coefficient(self, eta: float) -> float:
        """Return the coefficient of ‖θ − θ̄‖²: λ/(2η_i), or μ/2 (mechanism.md §6)."""
        if self.settings.prox_weight == "auto":
            return self.settings.distance_weight / (2 * eta)
        return self.settings.prox_weight / 2

    def _sender(self, message: Message) -> Member | None:
        assert self._exchange is not None  # noqa: S101 - replies come from an exchange
        return self.members.of_node(self._exchange.node(message))

    def _collect(
        self, number: int, replies: Iterable[Message], bank: ModelBank
    ) -> dict[int, Report]:
        """Put each reply's model into the bank and its terms into the ledger, or say why not."""
        reports: dict[int, Report] = {}
        for message in replies:
            member = self._sender(message)
            if member is None:
                continue
            try:
                report = self._report(message, member, number, bank)
                self.ledger.report(report)
            except (ProtocolError, ModelError, LedgerError) as error:
                self._refuse(number, member, str(error))
                continue
            reports[member.institution] = report
            self._owed.taken(member.institution)
            self._without_model.discard(member.institution)
            if report.leaving:
                self.members.leave(member)
        return reports

    def _report(self, message: Message, member: Member, number: int, bank: ModelBank) -> Report:
        reply = Reply.from_message(message, round_number=number)
        digest = "" if reply.leaving else bank.put(member.institution, reply.arrays)
        return Report(
            round=number,
            institution=member.institution,
            terms=reply.terms,
            model_digest=digest,
            leaving=reply.leaving,
            metrics=reply.metrics,
        )

    def _refuse(self, number: int, member: Member | None, reason: str) -> None:
        if member is not None:
            logger.warning("round %d: %s: %s", number, member.name, reason)
            self.ledger.refuse(number, member.institution, reason)
            # It may have lost its disk: θ⁰ goes along next time, for who has no model of its own.
            self._without_model.add(member.institution)

    def _short_of_quorum(self, number: int, reports: Mapping[int, Report]) -> "_Fault | None":
        usable = sum(not report.leaving for report in reports.values())
        if usable >= self.settings.quorum:
            return None
        state = self.ledger.state(number)
        failed = {} if state is None else state.failed
        names = {member.institution: member.name for member in self.members}
        silent = [name for i, name in names.items() if i not in reports and i not in failed]
        left = [names[i] for i, report in reports.items() if report.leaving]
        reason = (
            f"round {number}: {usable} of {len(names)} institutions replied with a usable "
            f"model, the quorum is {self.settings.quorum}"
            + "".join(f"; {names[i]}: {why}" for i, why in failed.items())
            + (f"; no answer within the deadline: {', '.join(silent)}" if silent else "")
            + (f"; left: {', '.join(left)}" if left else "")
        )
        return _Fault(reason, by_silence=usable + len(left) < self.settings.quorum)

    def _settle_or_abandon(
        self, number: int, reports: Mapping[int, Report], bank: ModelBank
    ) -> None:
        try:
            delivery = self.settle(number, reports, bank)
        except InvariantError as error:
            logger.error("round %d: %s", number, error)  # noqa: TRY400 - no traceback to read
            self._abandon(number, _Fault(str(error), by_silence=False), bank)
        else:
            self._owed.add(delivery)
            self._settled = number

    def _abandon(self, number: int, fault: "_Fault", bank: ModelBank) -> None:
        self.ledger.abandon(number, fault.reason)
        bank.delete()

    def _delivered(self) -> None:
        """Note that the last settled round's outcome has been sent to everyone who is there."""
        if self._settled is not None:
            self.ledger.deliver(self._settled)
            self._settled = None


@dataclass(frozen=True)
class _Fault:
    """Why a round is abandoned, and whether that was institutions' silence."""

    reason: str
    by_silence: bool


def _mean(metrics: Iterable[Mapping[str, float]]) -> MetricRecord | None:
    """Return the mean of each metric over the institutions that have it."""
    values: dict[str, list[float]] = {}
    for item in metrics:
        for name, value in item.items():
            values.setdefault(name, []).append(value)
    means: dict[str, MetricRecordValues] = {
        name: sum(items) / len(items) for name, items in sorted(values.items())
    }
    return MetricRecord(means) if means else None
