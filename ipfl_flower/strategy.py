"""The Flower strategy of the market: drives one round after another through its parts.

A round is a straight line: messages out, replies into the bank and the ledger as they come, one
clearing, one commit; the prox-centres of the buyers who pay leave with the next round's messages
(mechanism.md §7).
"""

import logging
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack
from typing import Never

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

from ipfl_flower import logs
from ipfl_flower.exchange import Clock, Exchange
from ipfl_flower.ledger import Ledger, LedgerError, Report, RoundState
from ipfl_flower.members import AbsenceError, Member, Members
from ipfl_flower.models import Layout, ModelBank, ModelError, Reference, StoredModel
from ipfl_flower.notary import OPERATOR_KEY, Minutes, Notary
from ipfl_flower.protocol import ProtocolError, Reply, Request, Role, request_id
from ipfl_flower.quorum import short_of_quorum
from ipfl_flower.receipts import load_or_make_key
from ipfl_flower.resume import Banks, Standing, standing
from ipfl_flower.settings import Settings
from ipfl_flower.settlement import Delivery, InvariantError, Owed, deliver, settle
from ipfl_flower.wire import read_arrays

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
    Memory is that of one message in flight, whatever the number of institutions: θ⁰, models and
    centres lie on disk, messages are made, pushed and pulled one at a time, and models go straight
    into the bank.
    """

    def __init__(self, settings: Settings, ledger: Ledger, clock: Clock | None = None) -> None:
        self.settings = settings
        self.ledger = ledger
        self._notary = Notary(load_or_make_key(settings.receipt_key_file))
        self._clock = clock or Clock()
        self.members = Members(ledger, settings.samples_max, self._clock, settings.poll_s)
        self._deadline_s = settings.deadline_s
        self._banks: Banks | None = None
        self._owed = Owed()
        self._undelivered: int | None = None
        self._without_model: set[int] = set()
        self._exchange: Exchange | None = None
        self._market = ""  # as logs call it

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
            θ⁰, which every newcomer starts from and every update is measured against. It is
            written to the disk of the settings' `models_dir`, and the record emptied.
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
            If the ledger belongs to another market: names what differs.
        ResumeError
            If the models on disk are not those that the ledger knows.
        ModelError
            If θ⁰ can't be shared.
        """
        if evaluate_fn is not None:
            raise MarketError("evaluate_fn: the server of a market has no model to evaluate")
        rounds = self.settings.rounds if num_rounds is None else num_rounds
        self._deadline_s = self.settings.deadline_s if timeout is None else timeout
        result = Result()
        try:
            where = self._open_market(initial_arrays)
            with logs.context(market=self._market):
                self.summary()
                last = (evaluate_config or ConfigRecord(), result)
                try:
                    if where.next_round == 0 and where.unfinished is None:
                        self._wait_for(grid, self.settings.institutions_min)
                    self._play(
                        grid, initial_arrays, where, rounds, train_config or ConfigRecord(), result
                    )
                except MarketError:
                    self._deliver_last(grid, initial_arrays, *last)
                    raise
                self._deliver_last(grid, initial_arrays, *last)
        finally:
            self._owed.close()
            if self._banks is not None:
                self._banks.close()
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
        """Yield the round's messages, one at a time, to whoever has not answered yet."""
        del arrays, config, grid
        state = self._state(server_round)
        for member in self.members:
            if member.institution in state.waiting:
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
        known = {report.institution: report for report in self.ledger.reports(server_round)}
        bank = self._the_banks.continued(server_round, known)
        with ExitStack() as on_error:
            on_error.callback(bank.close)
            reports = known | self._collect(server_round, replies, bank)
            names = {member.institution: member.name for member in self.members}
            state, quorum = self._state(server_round), self.settings.quorum
            fault = short_of_quorum(state, reports, names, quorum)
            if fault is not None:
                self._abandon(server_round, fault.reason, bank)
                if fault.silence:
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
        head = self.ledger.commit(settlement)
        logger.info(
            "round %d is settled: %d institutions, %d purchases, head %s",
            number,
            len(settlement.participants),
            int(settlement.clearing.imports.sum()),
            logs.short(head),
        )
        minutes = Minutes.of(self.ledger, settlement)
        return deliver(minutes, gram, bank, self.settings, self._notary)

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterator[Message]:
        """Yield the last delivery: the centres that are owed, to be judged, not trained on."""
        del arrays, config, grid
        heard = self.ledger.last_heard()
        for member in self.members:
            if heard[member.institution] >= server_round:
                continue
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
            with self._logged(message, member):
                try:
                    reply = Reply.from_message(message, round_number=server_round)
                except ProtocolError as error:
                    logger.warning("last delivery: %s: %s", member.name, error)
                    self.ledger.log_event("failed", f"last delivery: {member.name}: {error}")
                    continue
                self.ledger.acknowledge(server_round, member.institution, reply.metrics)
                logger.info("last delivery: %s replied", member.name)
            self._owed.taken(member.institution)
            metrics.append(reply.metrics)
        return _mean(metrics)

    def _play(
        self,
        grid: Grid,
        initial: ArrayRecord,
        where: Standing,
        rounds: int,
        config: ConfigRecord,
        result: Result,
    ) -> None:
        """Play the rounds; stop early, and say so, when too many institutions have left."""
        for number in range(where.next_round, rounds):
            with logs.context(round=number):
                if not self._begin_round(grid, number, where):
                    return
                self._exchange = self._new_exchange(grid, number, train=True)
                refused = self._exchange.send(self.configure_train(number, initial, config, grid))
                self._delivered()
                self.ledger.collect(number)
                for node in refused:
                    member = self.members.of_node(node)
                    self._refuse(number, member, "its SuperNode is not registered")
                _, metrics = self.aggregate_train(number, self._exchange.replies())
                result.train_metrics_clientapp[number] = metrics or MetricRecord()

    def _begin_round(self, grid: Grid, number: int, where: Standing) -> bool:
        """Open a round, or find it begun; False: too many institutions have left."""
        if where.unfinished is not None and where.unfinished.number == number:
            self.members.wait_for_return(grid, where.unfinished.waiting, self.settings.absence_s)
        elif not self._wait_for(grid, self.settings.quorum):
            self._note(
                "ended early", f"before round {number}: {self.members.left} institutions left"
            )
            return False
        else:
            # A SuperNode that restarts between two rounds is as one that does within a round.
            self.members.wait_for_return(grid, self._took_part(number - 1), self.settings.absence_s)
            ids, quorum = self.members.ids, self.settings.quorum
            self.ledger.open_round(number, ids, self._deadline_s, quorum)
        return True

    def _deliver_last(
        self, grid: Grid, initial: ArrayRecord, config: ConfigRecord, result: Result
    ) -> None:
        """Send what is still owed, with the number of the round that will not be played."""
        state = self.ledger.state()
        number = 0 if state is None else state.number + 1
        with logs.context(round=number):
            self.members.wait_for_return(grid, self._owed.buyers(), self.settings.absence_s)
            self._exchange = self._new_exchange(grid, number, train=False)
            self._exchange.send(self.configure_evaluate(number, initial, config, grid))
            self._delivered()
            metrics = self.aggregate_evaluate(number, self._exchange.replies())
            result.evaluate_metrics_clientapp[number] = metrics or MetricRecord()
            names = {item.id: item.name for item in self.ledger.institutions()}
            for institution in self._owed.buyers():
                self._note("undelivered", f"{names[institution]} has not taken its centre")

    def _open_market(self, initial: ArrayRecord) -> Standing:
        """Begin the market, or go on where its ledger says that it stood."""
        reference = self._keep(initial)
        self._banks = Banks(self.settings.models_dir, reference, self.ledger, self._notary)
        where = standing(self.ledger)
        if where.next_round or where.unfinished:
            if not self.settings.resume:
                raise MarketError(
                    f"the ledger {self.settings.ledger} holds a market up to round "
                    f"{where.next_round}: resume it (--resume), or name a new ledger for a new one"
                )
            self._note("resumed", f"at round {where.next_round}")
        self.ledger.begin(
            {
                **self.settings.contract(),
                "layout": reference.layout.digest,
                "initial-model": reference.digest,
                OPERATOR_KEY: self._notary.public_key,
            }
        )
        self._market = logs.short(self.ledger.market)
        if where.next_round == 0 and where.unfinished is None and self._banks.found():
            raise MarketError(
                f"{self.settings.models_dir} holds models of another market "
                f"({', '.join(self._banks.found())}): name another models-dir, or delete them"
            )
        self._banks.keep_only(where.banks)
        for number, institutions in where.owed.items():
            centres = number in where.banks
            delivery = self._banks.delivery(number, self.settings, centres=centres)
            self._owed.add(delivery, institutions)
        self._undelivered = where.undelivered
        return where

    def _keep(self, initial: ArrayRecord) -> Reference:
        """Move θ⁰ from memory to the disk."""
        arrays = read_arrays(initial, keep=False)
        layout = Layout.of(arrays)
        layout.check(arrays)
        folder = self.settings.models_dir
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.chmod(0o700)
        return Reference(layout, arrays, folder)

    @property
    def _the_banks(self) -> Banks:
        assert self._banks is not None  # noqa: S101 - start() has opened the market
        return self._banks

    def _state(self, number: int) -> RoundState:
        state = self.ledger.state(number)
        assert state is not None  # noqa: S101 - a round that does not exist is an error there
        return state

    def _took_part(self, number: int) -> set[int]:
        """Return who replied in a round, and did not leave in it."""
        reports = self.ledger.reports(number) if number >= 0 else ()
        return {report.institution for report in reports if not report.leaving}

    def _wait_for(self, grid: Grid, least: int) -> bool:
        """Wait for `least` institutions, or a quorum if that is more; False: too many have left."""
        least = max(least, self.settings.quorum)
        try:
            return self.members.wait_for(grid, least, self.settings.join_deadline_s)
        except AbsenceError as error:
            raise MarketError(str(error)) from error

    def _new_exchange(self, grid: Grid, number: int, *, train: bool) -> Exchange:
        def remake(node: int) -> Message | None:
            member = self.members.of_node(node)
            if member is None:
                return None
            self._note("resent", f"round {number}: {member.name} is asked again")
            return self.message(member, number, train=train)

        def sent(node: int, message_id: str) -> None:
            if (member := self.members.of_node(node)) is not None:
                with logs.context(institution=member.name, request=request_id(message_id)):
                    logger.info("round %d: %s is asked", number, member.name)

        settings = self.settings
        return Exchange(
            grid,
            self._deadline_s,
            settings.absence_s,
            settings.poll_s,
            self._the_banks.reference.layout.bytes,
            remake,
            self._clock,
            sent,
        )

    def _request(self, institution: int, number: int, *, train: bool) -> Request:
        delivery = self._owed.get(institution)
        role: Role = "none"
        arrays: StoredModel | dict[str, Never] = {}
        coefficient = 0.0
        if delivery is not None and delivery.bank is not None and institution in delivery.etas:
            role, arrays = "centre", delivery.bank.centre(institution)
            coefficient = self._coefficient(delivery.etas[institution])
        elif institution in self._without_model or not self.ledger.has_reported(institution):
            role, arrays = "initial", self._the_banks.reference.model
        return Request(
            round=number,
            train=train,
            role=role,
            arrays=arrays,
            coefficient=coefficient,
            start=self.settings.start,
            statement={} if delivery is None else delivery.statement(institution),
            task=self.settings.task,
            market=self._market,
            institution=next(
                (member.name for member in self.members if member.institution == institution), ""
            ),
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
            with self._logged(message, member):
                try:
                    report = self._report(message, member, number, bank)
                    self.ledger.report(report)
                except (ProtocolError, ModelError, LedgerError) as error:
                    self._refuse(number, member, str(error))
                    continue
                logger.info("round %d: %s replied", number, member.name)
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

    def _settle_or_abandon(
        self, number: int, reports: Mapping[int, Report], bank: ModelBank
    ) -> None:
        try:
            delivery = self.settle(number, reports, bank)
        except InvariantError as error:
            logger.error("round %d: %s", number, error)  # noqa: TRY400 - no traceback to read
            self._abandon(number, str(error), bank)
        else:
            self._owed.add(delivery)
            self._undelivered = number

    @staticmethod
    def _logged(message: Message, member: Member) -> AbstractContextManager[object]:
        """Give the context in which logs name a reply's institution and request."""
        request = request_id(message.metadata.reply_to_message_id)
        return logs.context(institution=member.name, request=request)

    def _note(self, kind: str, text: str) -> None:
        """Note an event in the ledger, and log it."""
        logger.info("%s: %s", kind, text)
        self.ledger.log_event(kind, text)

    def _abandon(self, number: int, reason: str, bank: ModelBank) -> None:
        logger.warning("round %d is abandoned: %s", number, reason)
        self.ledger.abandon(number, reason)
        bank.delete()

    def _delivered(self) -> None:
        """Note that the last settled round's outcome has been sent to everyone who is there."""
        if self._undelivered is not None:
            self.ledger.deliver(self._undelivered)
            self._undelivered = None


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
