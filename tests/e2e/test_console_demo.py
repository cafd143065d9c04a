"""The console's page on a ledger that a real market wrote: `ipfl demo` with three institutions."""

import subprocess

import pytest
from selenium.webdriver.common.keys import Keys
from support.browser import IPFL, browsing, find_browser, serving
from support.console_page import Page

from ipfl_flower.console.access import add_token
from ipfl_flower.ledger import Ledger

DEMO_S = 800
OPERATOR = "operator-" + "0123456789" * 3
ROUNDS = 3

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.timeout(900),
    pytest.mark.skipif(
        find_browser() is None, reason="no Chromium here: apt-get install chromium chromium-driver"
    ),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Play a market; give the folder with its ledger, and two tokens."""
    folder = tmp_path_factory.mktemp("market")
    size = "--institutions", "3", "--groups", "1", "--rounds", str(ROUNDS)
    with (folder / "printed").open("w") as printed:
        demo = subprocess.Popen(
            [IPFL, "demo", "--dir", folder / "demo", *size],
            stdout=printed,
            stderr=subprocess.STDOUT,
        )
        try:
            code = demo.wait(DEMO_S)
        finally:
            demo.terminate()  # politely: it ends what it has started
            demo.wait()
    assert code == 0, (folder / "printed").read_text()
    (folder / "operator").write_text(OPERATOR)
    with Ledger.open(folder / "demo" / "ledger.db", create=False) as ledger:
        names = [item.name for item in ledger.institutions()]
    (folder / "first").write_text(add_token(folder / "tokens", names[0]))
    return folder


@pytest.fixture
def ledger(folder):
    with Ledger.open(folder / "demo" / "ledger.db", create=False) as ledger:
        yield ledger


@pytest.fixture(scope="module")
def address(folder):
    tokens = "--operator-token-file", folder / "operator", "--tokens", folder / "tokens"
    with serving(folder / "demo" / "ledger.db", *tokens) as address:
        yield address


@pytest.fixture
def page(tmp_path, address):
    with browsing(tmp_path / "profile") as browser:
        page = Page(browser, address)
        yield page
        assert page.log() == []


def test_the_operator_sees_each_rounds_graph_and_why_there_is_an_edge(page, ledger):
    page.log_in(OPERATOR)
    names = [item.name for item in ledger.institutions()]
    for number in range(ROUNDS):
        page.slide_to(number)
        imports = ledger.settlement(number).clearing.imports
        page.until(lambda i=imports: len(page.all(".edge")) == int(i.sum()), "its edges")
        page.until_text(f"Round {number}: delivered", *names)
    page.shoot("demo-market")
    page.type(".edge-hit", Keys.ENTER)
    page.until_text("Why ", " buys from ", "marginal gain", "full price", "paid", selector="#why")
    assert page.attribute("#why [data-reason]", "data-reason") == "bought"
    buyer, seller = page.attribute(".edge.chosen", "data-pair").strip('[]"').split('","')
    settlement = ledger.settlement(ROUNDS - 1)
    i, j = (settlement.participants.index(names.index(name)) for name in (buyer, seller))
    paid = int(settlement.clearing.transfers[i, j])
    assert f"{paid // 10**6}.{paid % 10**6:06}" in page.text("#why")
    page.shoot("demo-why")


def test_the_operator_sees_rounds_money_and_learning(page, ledger):
    page.log_in(OPERATOR)
    names = [item.name for item in ledger.institutions()]
    page.view("rounds")
    page.until_text(f"Round {ROUNDS - 1}: delivered", "3 of 3")
    page.shoot("demo-rounds")
    page.view("money")
    page.until_text("The ledger is whole", "All balances sum to 0.000000", *names)
    for balance in ledger.balances().values():
        sign, size = "\N{MINUS SIGN}" if balance < 0 else "", abs(balance)
        assert f"{sign}{size // 10**6}.{size % 10**6:06}" in page.text()
    page.shoot("demo-money")
    page.view("learning")
    page.until_text("Test accuracy", *names)
    assert len(page.all("main .chart .line")) == len(names)
    page.shoot("demo-learning")


def test_an_institution_sees_its_own_lines_and_no_other(page, folder, ledger):
    own, other, third = (item.name for item in ledger.institutions())
    page.log_in((folder / "first").read_text())
    page.until_text(own)
    page.slide_to(ROUNDS - 1)
    pairs = set(page.attributes(".edge", "data-pair"))
    assert all(own in pair for pair in pairs)
    imports = ledger.settlement(ROUNDS - 1).clearing.imports
    assert len(pairs) == int(imports[0].sum() + imports[:, 0].sum())
    page.view("money")
    page.until_text("Statement of", own)
    rows = page.texts("main .card:first-child table tbody tr")
    assert [row.split()[0] for row in rows] == [own]
    page.view("learning")
    page.until_text("Test accuracy", own)
    assert other not in page.text()
    assert third not in page.text()
    for place in (f"accounts/{other}/statement", f"rounds/0/market/{other}/{third}"):
        assert page.status_of(f"/api/v1/{place}") == 404
    assert len(page.log()) == 2  # the browser notes both refusals, and nothing else
    page.shoot("demo-institution")


def test_it_fits_a_telephone(page):
    page.shrink_to_a_telephone("light")
    page.log_in(OPERATOR)
    for view, said in (
        ("market", f"Round {ROUNDS - 1}: delivered"),
        ("rounds", "quorum"),
        ("money", "Statement of"),
        ("learning", "Test accuracy"),
    ):
        page.view(view)
        page.until_text(said)
        assert not page.is_wider_than_the_window(), view
        page.shoot(f"demo-telephone-{view}")
