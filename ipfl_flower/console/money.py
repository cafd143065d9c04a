"""Accounts, statements, and what taking part was worth. Money is integer micro-credits."""

import csv
import io
from collections.abc import Iterable, Sequence

from ipfl_flower.console.access import Viewer
from ipfl_flower.console.book import Book, series
from ipfl_flower.console.shapes import (
    Account,
    Money,
    Series,
    Statement,
    StatementLine,
    Verification,
)
from ipfl_flower.ledger import Ledger


def read_money(book: Book, verification: Verification, points: int, viewer: Viewer) -> Money:
    """Sum up accounts, and utilities over at most `points` rounds."""
    shown = [i for i, name in enumerate(book.names) if viewer.sees(name)]
    picked = picked_rounds(len(book.pages), points)
    sums = book.summed_utilities
    lines = series(sums[picked])
    accounts = [account(book, i, float(sums[-1, i]) if len(sums) else 0.0) for i in shown]
    if not viewer.is_operator:
        verification = verification.model_copy(update={"problems": []})
    return Money(
        accounts=accounts,
        total=sum(item.balance for item in accounts) if viewer.is_operator else None,
        rounds=picked,
        utilities=[Series(name=book.names[i], values=lines[i]) for i in shown],
        verification=verification,
    )


def account(book: Book, institution: int, utility: float) -> Account:
    """Return what an institution has; `utility` is in credits."""
    last = book.pages[-1] if book.pages else None
    there = last is not None and institution < len(last.paid)
    paid, earned = (last.paid[institution], last.earned[institution]) if last and there else (0, 0)
    name = book.names[institution]
    return Account(name=name, balance=earned - paid, paid=paid, earned=earned, utility=utility)


def picked_rounds(count: int, points: int) -> list[int]:
    """Pick at most `points` of the rounds, evenly, the first and the last among them."""
    if count <= points:
        return list(range(count))
    return sorted({round(k * (count - 1) / (points - 1)) for k in range(points)})


def read_statement(
    ledger: Ledger, book: Book, institution: int, first: int, last: int
) -> Statement:
    """Read an account's entries in rounds `first` to `last`, with its running balance."""
    earlier = book.pages[:first][-1:]
    before = earlier[0].balance(institution) if earlier else 0
    balance, lines = before, []
    for number, payer, payee, amount in ledger.lines(institution, first, last):
        pays = payer == institution
        balance += -amount if pays else amount
        other = payee if pays else payer
        lines.append(
            StatementLine(
                round=number,
                counterparty=book.names[other],
                direction="paid" if pays else "earned",
                amount=amount,
                balance=balance,
            )
        )
    name = book.names[institution]
    return Statement(
        name=name, first=first, last=last, opening=before, lines=lines, closing=balance
    )


def csv_text(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Write a table as CSV. Text that a spreadsheet would take for a formula gets a ' before it."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\r\n")
    writer.writerow(columns)
    writer.writerows([_harmless(value) for value in row] for row in rows)
    return file.getvalue()


def _harmless(value: object) -> object:
    return f"'{value}" if isinstance(value, str) and value[:1] in "=+-@\t\r" else value
