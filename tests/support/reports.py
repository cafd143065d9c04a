"""A market's report, and what its page says.

A test file names the fixtures that it takes: ``path = reports.path``.
"""

import itertools
from html.parser import HTMLParser

import pytest
from support import console_market as cm

from ipfl_flower.ledger import Ledger
from ipfl_flower.report import market_page, read_market

NOW = 1_790_000_000.0
HOSTILE = "<script>alert('you')</script>"


class Read(HTMLParser):
    """What a page says: its tables by caption, its elements, and its text."""

    def __init__(self, page):
        super().__init__()
        self.tables, self.tags, self.text = {}, [], []
        self._rows, self._into = None, None
        self.feed(page)
        self.text = " ".join(" ".join(self.text).split())

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag == "table":
            self._rows = []
        elif tag == "caption":
            self._into = self._caption = []
        elif tag == "tr":
            self._rows.append([])
        elif tag in ("td", "th"):
            self._into = []
            self._rows[-1].append(self._into)

    def handle_endtag(self, tag):
        if tag == "table":
            caption = "".join(self._caption)
            self.tables[caption] = [["".join(cell) for cell in row] for row in self._rows]
        if tag in ("td", "th", "caption"):
            self._into = None

    def handle_data(self, data):
        self.text.append(data)
        if self._into is not None:
            self._into.append(data)

    def table(self, begin):
        [found] = [rows for caption, rows in self.tables.items() if caption.startswith(begin)]
        return found


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    clock = itertools.count(NOW, 1.0)
    path = tmp_path_factory.mktemp("report") / "ledger.db"
    with Ledger.open(path, clock=lambda: next(clock)) as ledger:
        ledger.log_event("started", "Flower run 42")
        cm.play(ledger)
        ledger.log_event("died", "OSError: " + HOSTILE)
    return path


@pytest.fixture(scope="module")
def market(path):
    with Ledger.open(path, create=False) as ledger:
        return read_market(ledger, now=NOW)


@pytest.fixture(scope="module")
def page(market):
    return Read(market_page(market))


@pytest.fixture
def copy(path, tmp_path):
    with Ledger.open(path, create=False) as ledger:
        ledger.backup(tmp_path / "copy.db")
    return tmp_path / "copy.db"
