"""The console's page in a real browser, served by a real `ipfl console`."""

import itertools
import stat

import numpy as np
import pytest
from selenium.webdriver.common.keys import Keys
from support import console_market
from support.browser import browsing, find_browser, serving
from support.console_page import Page

from ipfl_flower.console.access import add_token
from ipfl_flower.ledger import MICRO, Ledger, Settlement
from ipfl_flower.market import Rules, Terms, clear

OPERATOR = "operator-" + "0123456789" * 3

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(
        find_browser() is None, reason="no Chromium here: apt-get install chromium chromium-driver"
    ),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("console")
    clock = itertools.count(1_790_000_000.0, 1.7)
    with Ledger.open(folder / "ledger.db", clock=lambda: next(clock)) as ledger:
        console_market.play(ledger)
    (folder / "operator").write_text(OPERATOR)
    (folder / "alder").write_text(add_token(folder / "tokens", "alder"))
    return folder


@pytest.fixture(scope="module")
def address(folder):
    tokens = "--operator-token-file", folder / "operator", "--tokens", folder / "tokens"
    with serving(folder / "ledger.db", *tokens) as address:
        yield address


@pytest.fixture
def page(tmp_path, address):
    with browsing(tmp_path / "profile") as browser:
        page = Page(browser, address)
        yield page
        assert page.log() == []


def test_the_operator_sees_the_graph_slides_through_rounds_and_asks_why(page):
    page.log_in(OPERATOR)
    page.until_text("Round 4: delivered")
    last = console_market.settlement(4).clearing
    assert len(page.all(".edge")) == int(last.imports.sum())
    page.shoot("market")

    page.slide_to(0)
    first = console_market.settlement(0).clearing
    page.until(lambda: len(page.all(".edge")) == int(first.imports.sum()), "round 0's edges")
    page.slide_to(2)
    page.until_text("Round 2: abandoned", "the operator stopped it")
    assert page.all(".edge") == []
    page.slide_to(4)
    page.until(lambda: len(page.all(".edge")) == int(last.imports.sum()), "round 4's edges")

    page.type(".edge-hit", Keys.ENTER)  # with the keyboard, as a click would
    page.until_text("Why ", "marginal gain", "full price", "threshold", selector="#why")
    assert page.attribute("#why [data-reason]", "data-reason") == "bought"
    assert len(page.all(".edge.chosen")) == 1
    page.shoot("market-why")

    page.type("#buyer", "elm")
    page.type("#seller", "alder")
    page.click("[data-key='ask']")
    page.until_text("elm does not buy from alder", "budget", selector="#why")
    page.shoot("market-why-not")


def test_the_other_views_show_rounds_money_and_learning(page):
    page.log_in(OPERATOR)
    page.view("rounds")
    page.until_text("waits for", "birch", "cedar: tensor 'w' is missing", "the operator stopped it")
    page.shoot("rounds")
    page.view("money")
    page.until_text("The ledger is whole", "All balances sum to 0.000000", "Statement of")
    page.shoot("money")
    page.view("learning")
    page.until_text("Test accuracy")
    assert len(page.all("main .line")) >= len(console_market.NAMES) - 1
    page.type("#learner", "birch")
    page.until_text("Test accuracy of birch", "first, trained alone")
    page.shoot("learning")


def test_an_institution_logs_in_and_sees_its_own_lines_alone(page, folder):
    page.log_in((folder / "alder").read_text())
    page.slide_to(0)
    cleared = console_market.settlement(0).clearing
    own = int(cleared.imports[0].sum() + cleared.imports[:, 0].sum())
    page.until(lambda: len(page.all(".edge")) == own, "alder's own edges")
    page.type(".edge-hit", Keys.ENTER)
    page.until_text("Why ", "paid", selector="#why")
    page.shoot("institution-market")
    page.view("money")
    page.until_text("Statement of")
    accounts = page.texts("main .card:first-child table tbody tr")
    assert [row.split()[0] for row in accounts] == ["alder"]
    page.view("rounds")
    page.until_text("Rounds")
    assert "cedar" not in page.text()
    page.click("#logout")
    page.until(lambda: page.one("#login").is_displayed(), "the login")
    assert page.text("main") == ""
    page.browser.refresh()
    page.until(lambda: page.one("#login").is_displayed(), "the login")


def test_it_fits_a_telephone_in_the_dark(page):
    page.shrink_to_a_telephone()
    page.log_in(OPERATOR)
    for view in ("market", "rounds", "money", "learning"):
        page.view(view)
        page.until(lambda: page.all("main .card"), f"{view}'s cards")
        page.until_text("ound" if view != "learning" else "accuracy")
        assert not page.is_wider_than_the_window(), view
        page.shoot(f"telephone-{view}")
    colour = "return getComputedStyle(document.body).backgroundColor"
    assert page.browser.execute_script(colour) == "rgb(21, 24, 27)"


def test_the_page_follows_a_market_that_gets_on_and_takes_nothing_from_the_users_hands(tmp_path):
    file = tmp_path / "ledger.db"
    with Ledger.open(file) as ledger:
        console_market.play(ledger)
        with serving(file) as address, browsing(tmp_path / "profile") as browser:
            page = Page(browser, address)
            browser.get(address)
            page.until_text("waiting for birch", selector="#now")
            page.until_text("Round 4: delivered")
            page.type("#buyer", "elm")
            form = [page.one(selector) for selector in ("#buyer", "#seller", "[data-key='ask']")]
            slider = page.one("#round")
            ledger.refuse(5, console_market.BIRCH, "it is away")
            page.until_text("8 of 9 replied;", selector="#now")
            ledger.commit(console_market.settlement(5, missing=(console_market.BIRCH,)))
            page.until_text("Round 5: settled")
            assert slider.get_attribute("value") == "5"
            assert browser.switch_to.active_element == form[0]
            assert [element.get_attribute("value") for element in form[:2]] == ["elm", "birch"]
            form[2].click()
            page.until_text("elm does not buy from birch", selector="#why")
            assert page.log() == []


def test_amounts_that_a_float_would_round_are_shown_to_the_last_digit(tmp_path):
    # Two who can gain little beside one who can gain very much: a sum of both is no float.
    rich = [Terms(100 + i, 0.1 + i, eagerness) for i, eagerness in enumerate((1e26, 1e9, 3e8))]
    apart = 0.25 * (1 - np.eye(3))
    ids, active, rules = (0, 1, 2), np.ones(3, bool), Rules()
    cleared = clear(rich, apart, rules, active)
    metrics, digests = ({},) * 3, ("a", "b", "c")
    found = Settlement(0, ids, tuple(rich), apart, active, rules, cleared, digests, metrics)
    with Ledger.open(tmp_path / "ledger.db") as ledger:
        ledger.begin({})
        for name in console_market.NAMES[:3]:
            ledger.enrol(name, name.encode())
        ledger.open_round(0, ids, 60.0, 1)
        ledger.collect(0)
        console_market.settle(ledger, found)
        balances = ledger.balances().values()
    volume = int(cleared.transfers.sum())
    lost = [amount for amount in (volume, *balances) if int(float(amount)) != amount]
    assert lost, "a float holds every amount"
    with (
        serving(tmp_path / "ledger.db") as address,
        browsing(tmp_path / "profile") as browser,
    ):
        page = Page(browser, address)
        browser.get(address)
        page.until_text(f"{cleared.imports.sum()} purchases, {credits_of(volume)} credits")
        page.view("money")
        page.until_text("All balances sum to 0.000000", *(credits_of(sum_) for sum_ in balances))
        assert page.log() == []


def credits_of(micro):
    size = abs(micro)
    return f"{'−' if micro < 0 else ''}{size // MICRO:,}.{size % MICRO:06}"


def test_the_tokens_file_is_its_owners_alone(folder):
    assert stat.S_IMODE((folder / "tokens").stat().st_mode) == 0o600
