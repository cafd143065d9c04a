"""How well institutions' models do, by what they report of them."""

from ipfl_flower.console.access import Viewer
from ipfl_flower.console.book import Book, known, series
from ipfl_flower.console.money import picked_rounds
from ipfl_flower.console.shapes import Learner, Learning


def read_learning(book: Book, points: int, viewer: Viewer) -> Learning:
    """Collect accuracies over at most `points` rounds; null where an institution gave none."""
    picked = picked_rounds(len(book.pages), points)
    trained = series(book.accuracies("trained")[picked])
    best = series(book.accuracies("best")[picked])
    return Learning(
        rounds=picked,
        institutions=[
            Learner(
                name=name,
                first=known(book.first_accuracies[i]),
                trained=trained[i],
                best=best[i],
            )
            for i, name in enumerate(book.names)
            if viewer.sees(name)
        ],
    )
