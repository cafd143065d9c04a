"""``ipfl market show``: a round's market in the terminal."""

from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from ipfl_flower.cli.money import credits_text
from ipfl_flower.console.access import OPERATOR
from ipfl_flower.console.book import SETTLED, read_book
from ipfl_flower.console.graph import round_graph
from ipfl_flower.console.shapes import Graph
from ipfl_flower.ledger import Ledger, LedgerError
from ipfl_flower.logs import printable

WIDTH = 80

market_app = typer.Typer(no_args_is_help=True, help="Look at who bought from whom.")


@market_app.callback()
def _market() -> None:
    pass


@market_app.command()
def show(
    ledger: Annotated[str, typer.Argument(help="The ledger: a file or a database URL.")],
    number: Annotated[
        int | None, typer.Option("--round", min=0, help="Default: the last settled one.")
    ] = None,
    json_: Annotated[
        bool, typer.Option("--json", help="Print JSON; money in micro-credits.")
    ] = False,
) -> None:
    """Show what every institution bought in a round, from whom, and what it came to."""
    with Ledger.open(ledger, create=False) as opened:
        book = read_book(opened)
        if number is None:
            if not book.settled:
                raise LedgerError(f"ledger {opened.name}: no round is settled yet")
            number = book.settled[-1]
        if number >= len(book.pages):
            raise LedgerError(
                f"there is no round {number}: the ledger has {len(book.pages)} rounds, from 0"
            )
        page = book.pages[number]
        settlement = opened.settlement(number) if page.state in SETTLED else None
        graph = round_graph(book, page, settlement, OPERATOR)
    if json_:
        typer.echo(graph.model_dump_json(indent=2))
        return
    _print(graph)


def _print(graph: Graph) -> None:
    console = Console(markup=False, highlight=False)
    console.width = min(console.width, WIDTH) if console.is_terminal else WIDTH
    volume = sum(edge.price for edge in graph.edges)
    console.print(
        f"round {graph.round}: {graph.state}, {len(graph.edges)} purchases, "
        f"{credits_text(volume)} credits"
    )
    if graph.detail:
        console.print(printable(graph.detail))
    table = Table("institution", "accuracy", "utility", "net", "balance", box=None)
    for column in table.columns[1:]:
        column.justify = "right"
        column.no_wrap = True
    for node in graph.nodes:
        accuracy = "–" if node.accuracy is None else f"{100 * node.accuracy:.1f}"
        if node.accuracy_gain is not None:
            accuracy += f" {100 * node.accuracy_gain:+.1f}"
        table.add_row(
            node.name,
            accuracy,
            "–" if node.utility is None else f"{node.utility:.3f}",
            "–" if node.net is None else credits_text(node.net),
            credits_text(node.balance or 0),
        )
    console.print(table)
    if not graph.edges:
        return
    bought = Table("buyer", "seller", "price", box=None)
    bought.columns[2].justify = "right"
    bought.columns[2].no_wrap = True
    last = None
    for edge in graph.edges:
        bought.add_row(
            "" if edge.buyer == last else edge.buyer, edge.seller, credits_text(edge.price)
        )
        last = edge.buyer
    console.print()
    console.print(bought)
