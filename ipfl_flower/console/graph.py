"""The market of a round: who bought from whom, and at what price."""

import numpy as np

from ipfl_flower.console.access import Viewer
from ipfl_flower.console.book import Book, Page, known
from ipfl_flower.console.shapes import Edge, Graph, Node
from ipfl_flower.ledger import Settlement


def round_graph(book: Book, page: Page, settlement: Settlement | None, viewer: Viewer) -> Graph:
    """Draw a round.

    Parameters
    ----------
    book : Book
    page : Page
        The round.
    settlement : Settlement or None
        None: it is not settled, and nobody bought anything.
    viewer : Viewer
        An institution sees itself, its edges, and who is at their other ends.

    Returns
    -------
    Graph
    """
    edges = [] if settlement is None else _edges(book, settlement, viewer)
    others = {name for edge in edges for name in (edge.buyer, edge.seller)}
    shown = [
        i
        for i, name in enumerate(book.names[: len(page.paid)])
        if viewer.sees(name) or name in others
    ]
    m = 0 if settlement is None else int(settlement.active.sum())
    rules = None if settlement is None else settlement.rules
    return Graph(
        round=page.number,
        state=str(page.state),
        detail=page.history.detail if viewer.is_operator else None,
        nodes=[_node(book, page, settlement, i, viewer) for i in shown],
        edges=edges,
        density=page.history.edges / (m * (m - 1)) if m > 1 and viewer.is_operator else None,
        selection=rules and rules.selection,
        payment=rules and rules.payment,
        distance_weight=rules and rules.distance_weight,
    )


def _edges(book: Book, settlement: Settlement, viewer: Viewer) -> list[Edge]:
    cleared = settlement.clearing
    names = [book.names[institution] for institution in settlement.participants]
    buyers, sellers = np.nonzero(cleared.imports)
    prices = cleared.transfers[buyers, sellers].tolist()
    return [
        Edge(buyer=names[i], seller=names[j], price=price)
        for i, j, price in zip(buyers.tolist(), sellers.tolist(), prices, strict=True)
        if viewer.sees(names[i]) or viewer.sees(names[j])
    ]


def _node(
    book: Book, page: Page, settlement: Settlement | None, institution: int, viewer: Viewer
) -> Node:
    name = book.names[institution]
    takes_part = settlement is not None and institution in settlement.participants
    own = not viewer.is_operator and viewer.sees(name)
    if not viewer.sees(name):
        return Node(
            name=name,
            takes_part=True,
            own=False,
            balance=None,
            net=None,
            utility=None,
            accuracy=None,
            first_accuracy=None,
            accuracy_gain=None,
            declined=None,
        )
    first = known(book.first_accuracies[institution])
    now = known(page.accuracies["best"][institution])
    if now is None:
        now = known(page.accuracies["trained"][institution])
    net = declined = None
    if settlement is not None and takes_part:
        position = settlement.participants.index(institution)
        net = int(settlement.clearing.net[position])
        declined = bool(settlement.clearing.declined[position])
    return Node(
        name=name,
        takes_part=takes_part,
        own=own,
        balance=page.balance(institution),
        net=net,
        utility=known(page.utilities[institution]),
        accuracy=now,
        first_accuracy=first,
        accuracy_gain=None if now is None or first is None else now - first,
        declined=declined,
    )
