"""Where the market stands, and how its rounds went."""

from ipfl_flower.console.access import Viewer
from ipfl_flower.console.book import SETTLED, Book, Page, iso
from ipfl_flower.console.shapes import RoundLine, Rounds, Status, Verification
from ipfl_flower.ledger import State


def market_status(book: Book, verification: Verification, viewer: Viewer) -> Status:
    """Tell where the market stands; an institution reads only of itself."""
    last = book.events[-1] if book.events else None
    expelled = {book.names[i]: reason for i, reason in (book.expelled or {}).items()}
    if not viewer.is_operator:
        verification = verification.model_copy(update={"problems": []})
    return Status(
        version=book.version,
        rounds=len(book.pages),
        last_settled=book.settled[-1] if book.settled else None,
        institutions=[name for name in book.names if viewer.sees(name)],
        now=round_line(book, book.pages[-1], viewer) if book.pages else None,
        served=book.server is not None,
        server=book.server if viewer.is_operator else None,
        last_event=f"{last.kind}: {last.text}" if last and viewer.is_operator else None,
        expelled={name: reason for name, reason in expelled.items() if viewer.sees(name)},
        verification=verification,
    )


def list_rounds(book: Book, before: int | None, limit: int, viewer: Viewer) -> Rounds:
    """List rounds, the newest first: at most `limit` of those before round `before`."""
    end = len(book.pages) if before is None else max(0, min(before, len(book.pages)))
    pages = book.pages[max(0, end - limit) : end]
    lines = [round_line(book, page, viewer) for page in reversed(pages)]
    return Rounds(total=len(book.pages), rounds=lines)


def round_line(book: Book, page: Page, viewer: Viewer) -> RoundLine:
    """Tell how one round went."""
    history, steps = page.history, page.history.steps
    asked_at = steps.get(State.COLLECTING)
    ended_at = steps.get(State.DELIVERED, steps.get(State.ABANDONED))
    done_at = steps.get(State.SETTLED, steps.get(State.ABANDONED))
    collects = page.state is State.COLLECTING
    waiting = [i for i in history.asked if i not in history.reported and i not in history.failed]
    # Of the times that an institution sees, its own, the last would always be its own.
    times = history.reported if viewer.is_operator else {}
    slowest = max(times, key=lambda i: times[i]) if times else None
    settled = page.state in SETTLED and viewer.is_operator
    return RoundLine(
        number=page.number,
        state=str(page.state),
        detail=history.detail if viewer.is_operator else None,
        asked=len(history.asked),
        reported=len(history.reported),
        quorum=history.quorum,
        purchases=history.edges if settled else None,
        volume=history.volume_micro if settled else None,
        welfare=float(page.utilities[page.utilities == page.utilities].sum()) if settled else None,
        opened_at=iso(steps.get(State.OPEN)),
        collecting_at=iso(asked_at),
        settled_at=iso(steps.get(State.SETTLED)),
        ended_at=iso(ended_at),
        collecting_s=None if asked_at is None or done_at is None else done_at - asked_at,
        deadline_s=history.deadline_s,
        deadline_at=iso(history.deadline_at),
        waiting=[book.names[i] for i in waiting if collects and viewer.sees(book.names[i])],
        failed={
            book.names[i]: why for i, why in history.failed.items() if viewer.sees(book.names[i])
        },
        slowest=None if slowest is None else book.names[slowest],
        slowest_s=None if slowest is None or asked_at is None else times[slowest] - asked_at,
        head=history.head,
    )
