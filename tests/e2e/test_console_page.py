"""The console's page in a real browser, served by a real `ipfl console`."""

import itertools
import stat
from pathlib import Path

import pytest
from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait
from support import console_market
from support.browser import browsing, find_browser, serving

from ipfl_flower.console.access import add_token
from ipfl_flower.ledger import Ledger

SHOTS = Path(__file__).parents[2] / "build" / "screenshots"
WAIT_S = 60
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
        yield Page(browser, address)
        assert [entry["message"] for entry in browser.get_log("browser")] == []


class Page:
    """What a visitor does and sees."""

    def __init__(self, browser, address):
        self.browser, self.address = browser, address

    def log_in(self, token):
        self.browser.get(self.address)
        self.until(lambda: self.one("#login").is_displayed(), "the login")
        self.type("#login [name='token']", token, Keys.ENTER)
        self.until(lambda: self.all("#graph"), "the graph")

    def view(self, name):
        self.click(f"nav a[href='#{name}']")
        self.until(lambda: self.attribute(f"nav a[href='#{name}']", "aria-current"), name)

    def click(self, selector):
        self.act(selector, lambda element: element.click())

    def type(self, selector, *keys):
        self.act(selector, lambda element: element.send_keys(*keys))

    def attribute(self, selector, name):
        return self.act(selector, lambda element: element.get_attribute(name))

    def text(self, selector="main"):
        return self.act(selector, lambda element: element.text)

    def texts(self, selector):
        return self.until(
            lambda: ([element.text for element in self.all(selector)],), f"the texts of {selector}"
        )[0]

    def act(self, selector, act):
        """Find an element and do something with it, again if the page took it away in between."""
        return self.until(lambda: (act(self.one(selector)),), selector)[0]

    def one(self, selector):
        return self.browser.find_element(By.CSS_SELECTOR, selector)

    def all(self, selector):
        return self.browser.find_elements(By.CSS_SELECTOR, selector)

    def until(self, holds, what):
        wait = WebDriverWait(self.browser, WAIT_S, 0.05, [StaleElementReferenceException])
        return wait.until(lambda _: holds(), f"waited {WAIT_S} s for {what}")

    def until_text(self, *parts, selector="main"):
        self.until(lambda: all(p in self.text(selector) for p in parts), f"{parts} in {selector}")

    def is_wider_than_the_window(self):
        script = "return document.documentElement.scrollWidth - window.innerWidth"
        return self.browser.execute_script(script) > 0

    def shoot(self, name):
        SHOTS.mkdir(parents=True, exist_ok=True)
        assert self.browser.save_screenshot(str(SHOTS / f"{name}.png"))

    def slide_to(self, number):
        script = (
            "const s = document.getElementById('round'); s.value = arguments[0];"
            "s.dispatchEvent(new Event('input', {bubbles: true}))"
        )
        self.browser.execute_script(script, number)
        self.until(lambda: self.text("#round-number") == str(number), f"round {number}")


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
    # A window of Chromium's is never narrower than 500: the page is told otherwise.
    size = {"width": 360, "height": 740, "deviceScaleFactor": 2, "mobile": True}
    page.browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    dark = {"features": [{"name": "prefers-color-scheme", "value": "dark"}]}
    page.browser.execute_cdp_cmd("Emulation.setEmulatedMedia", dark)
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
            assert [entry["message"] for entry in browser.get_log("browser")] == []


def test_the_tokens_file_is_its_owners_alone(folder):
    assert stat.S_IMODE((folder / "tokens").stat().st_mode) == 0o600
