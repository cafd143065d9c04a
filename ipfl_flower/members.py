"""Who is in the market: Flower's nodes, known by their public keys."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass

from flwr.serverapp import Grid

from ipfl_flower.ledger import EnrolmentError, Ledger

logger = logging.getLogger(__name__)


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

    Attributes
    ----------
    refused : dict of int to str
        Nodes that were not admitted, and why.
    """

    def __init__(self, ledger: Ledger, samples_cap: int) -> None:
        self.refused: dict[int, str] = {}
        self._ledger = ledger
        self._samples_cap = samples_cap
        self._by_id: dict[int, Member] = {}
        self._left: dict[int, str] = {}

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

    def get(self, institution: int) -> Member | None:
        """Return a member by its institution's id."""
        return self._by_id.get(institution)

    def of_node(self, node: int | None) -> Member | None:
        """Return the member behind a node id."""
        return next((member for member in self if member.node == node), None)

    def refresh(self, grid: Grid) -> None:
        """Read who is online and enrol newcomers, in the order of their keys."""
        found: dict[int, Member] = {}
        for node in sorted(grid.get_nodes(), key=lambda node: node.public_key):
            if node.status != "online":
                continue
            name = node.name or f"institution-{node.public_key.hex()[-8:]}"
            try:
                institution = self._ledger.enrol(
                    name, node.public_key, samples_cap=self._samples_cap
                )
            except EnrolmentError as error:
                self._refuse(node.node_id, str(error))
                continue
            # Who left is asked again once its node was started anew: that is coming back.
            if self._left.get(institution) == node.last_activated_at:
                continue
            self._left.pop(institution, None)
            found[institution] = Member(institution, name, node.node_id, node.last_activated_at)
        self._by_id = dict(sorted(found.items()))

    def leave(self, member: Member) -> None:
        """Stop asking `member`, until its node is started anew."""
        self._left[member.institution] = member.activated
        self._ledger.log_event("left", member.name)

    def _refuse(self, node: int, reason: str) -> None:
        if self.refused.get(node) != reason:
            self.refused[node] = reason
            logger.warning("node %d is not admitted: %s", node, reason)
            self._ledger.log_event("not admitted", reason)
