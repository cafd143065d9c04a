"""Who is in the market: Flower's nodes, known by their public keys."""

import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from flwr.serverapp import Grid

from ipfl_flower.exchange import Clock, insistently
from ipfl_flower.ledger import EnrolmentError, Ledger

logger = logging.getLogger(__name__)


class AbsenceError(RuntimeError):
    """Too few institutions are online; the message says who is there."""


@dataclass(frozen=True)
class Member:
    """An institution that can be asked now.

    Attributes
    ----------
    institution : int
        Its id in the ledger.
    name : str
    node : int
        Where its messages go: Flower's node id.
    activated : str
        When that node last connected, as Flower writes it.
    """

    institution: int
    name: str
    node: int
    activated: str


class Members:
    """The institutions that are online and take part.

    Parameters
    ----------
    ledger : Ledger
        Newcomers are enrolled there.
    samples_cap : int
        The most samples that the contract lets a newcomer report.
    clock : Clock
    poll_s : float
        Pause between two looks while waiting.

    Attributes
    ----------
    refused : dict of int to str
        Nodes that were not admitted, and why.
    """

    def __init__(self, ledger: Ledger, samples_cap: int, clock: Clock, poll_s: float) -> None:
        self.refused: dict[int, str] = {}
        self._ledger = ledger
        self._samples_cap = samples_cap
        self._clock = clock
        self._poll_s = poll_s
        self._by_id: dict[int, Member] = {}
        self._left: dict[int, str] = {}
        self._enrolled: dict[tuple[str, bytes], int] = {}

    def __iter__(self) -> Iterator[Member]:
        """Iterate in the order of institution ids."""
        return iter(self._by_id.values())

    def __len__(self) -> int:
        return len(self._by_id)

    @property
    def ids(self) -> list[int]:
        """Institution ids, ascending."""
        return list(self._by_id)

    @property
    def left(self) -> int:
        """How many have left and not come back."""
        return len(self._left)

    def of_node(self, node: int | None) -> Member | None:
        """Return the member behind a node id."""
        return next((member for member in self if member.node == node), None)

    def refresh(self, grid: Grid) -> None:
        """Read who is online and may take part; enrol newcomers, in the order of their keys."""
        found: dict[int, Member] = {}
        expelled = self._ledger.expelled()
        nodes = insistently(grid.get_nodes, self._clock)
        for node in sorted(nodes, key=lambda node: node.public_key):
            if node.status != "online":
                continue
            name = node.name or f"institution-{node.public_key.hex()[-8:]}"
            try:
                institution = self._enrol(name, node.public_key)
            except EnrolmentError as error:
                self._refuse(node.node_id, str(error))
                continue
            if institution in expelled:
                self._refuse(
                    node.node_id, f"{name} was expelled: admit it again, or remove its key"
                )
                continue
            # Who left is asked again once its node was started anew: that is coming back.
            if self._left.get(institution) == node.last_activated_at:
                continue
            self._left.pop(institution, None)
            found[institution] = Member(institution, name, node.node_id, node.last_activated_at)
        self._by_id = dict(sorted(found.items()))

    def wait_for(self, grid: Grid, least: int, deadline_s: float) -> bool:
        """Read who is online until there are at least `least`.

        Returns
        -------
        bool
            False if there won't be, because institutions have left.

        Raises
        ------
        AbsenceError
            If the deadline passes; says who is there and who was not admitted.
        """
        end = self._clock.monotonic() + deadline_s
        self.refresh(grid)
        while len(self) < least:
            # In place of who was expelled the operator may admit another: that is waited for.
            if self._left and len(self._may_come()) < least:
                return False
            if self._clock.monotonic() > end:
                names = ", ".join(member.name for member in self) or "none"
                refused = "".join(f"; {reason}" for reason in self.refused.values())
                raise AbsenceError(
                    f"{len(self)} of {least} institutions came within {deadline_s:g} s ({names}): "
                    f"start the missing SuperNodes, or lower institutions-min and quorum{refused}"
                )
            self._clock.sleep(self._poll_s)
            self.refresh(grid)
        return True

    def wait_for_return(self, grid: Grid, institutions: Iterable[int], absence_s: float) -> None:
        """Give `institutions` a little time to come back; then go on with who is there.

        Who has left or was expelled is not waited for.
        """
        end, awaited = self._clock.monotonic() + absence_s, set(institutions)
        self.refresh(grid)
        while missing := awaited - self._by_id.keys():
            if not missing & self._may_come() or self._clock.monotonic() > end:
                return
            self._clock.sleep(self._poll_s)
            self.refresh(grid)

    def leave(self, member: Member) -> None:
        """Stop asking `member`, until its node is started anew."""
        self._left[member.institution] = member.activated
        self._ledger.log_event("left", member.name)

    def _may_come(self) -> set[int]:
        """Return who is known to the ledger and has neither left nor been expelled."""
        known = {item.id for item in self._ledger.institutions()}
        return known - self._left.keys() - self._ledger.expelled().keys()

    def _enrol(self, name: str, public_key: bytes) -> int:
        """Look an institution up in the ledger, once: refreshing is not a write for each node."""
        known = self._enrolled.get((name, public_key))
        if known is None:
            known = self._ledger.enrol(name, public_key, samples_cap=self._samples_cap)
            self._enrolled[name, public_key] = known
        return known

    def _refuse(self, node: int, reason: str) -> None:
        if self.refused.get(node) != reason:
            self.refused[node] = reason
            logger.warning("node %d is not admitted: %s", node, reason)
            self._ledger.log_event("not admitted", reason)
