"""A market's report in a real browser, opened as the file that `ipfl report` wrote."""

import base64
import itertools
import json
import subprocess
import sys
from pathlib import Path

import pytest
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from support import console_market
from support.browser import IPFL, browsing, find_browser

from ipfl_flower.ledger import Ledger

SHOTS = Path(__file__).parents[2] / "build" / "screenshots"
TELEPHONE = {"width": 360, "height": 740, "deviceScaleFactor": 2, "mobile": True}

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(
        find_browser() is None, reason="no Chromium here: apt-get install chromium chromium-driver"
    ),
]


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    clock = itertools.count(1_790_000_000.0, 1.7)
    with Ledger.open(folder / "ledger.db", clock=lambda: next(clock)) as ledger:
        ledger.log_event("started", "Flower run 42")
        console_market.play(ledger)
        ledger.log_event("finished", "<img src=x onerror=alert(1)>")
    mine = {"alone": dict.fromkeys(console_market.NAMES, 0.7), "FedAvg": {"alder": 0.5}}
    (folder / "mine.json").write_text(json.dumps(mine))
    command = [sys.executable, IPFL, "report", folder / "ledger.db"]
    command += ["--output", folder / "report.html", "--baselines", folder / "mine.json"]
    subprocess.run(command, check=True)
    return folder / "report.html"


@pytest.fixture
def browser(tmp_path, report):
    with browsing(tmp_path / "profile") as browser:
        browser.get(report.as_uri())
        yield browser
        assert [entry["message"] for entry in browser.get_log("browser")] == []


def one(browser, selector):
    return browser.find_element(By.CSS_SELECTOR, selector)


def shown_graphs(browser):
    return [
        item for item in browser.find_elements(By.CSS_SELECTOR, "svg.graph") if item.is_displayed()
    ]


def arrows(graph):
    return len(graph.find_elements(By.CSS_SELECTOR, ".edges path"))


def emulate(browser, size=None, theme="light", media="screen", script=True):
    if size:
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    features = [{"name": "prefers-color-scheme", "value": theme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": media, "features": features})
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": not script})


def shoot(browser, name):
    """Keep a picture of the page from top to bottom."""
    SHOTS.mkdir(parents=True, exist_ok=True)
    one(browser, "body")  # laid out
    size = browser.execute_cdp_cmd("Page.getLayoutMetrics", {})["cssContentSize"]
    clip = {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}
    taken = browser.execute_cdp_cmd(
        "Page.captureScreenshot", {"captureBeyondViewport": True, "clip": clip}
    )
    (SHOTS / f"{name}.png").write_bytes(base64.b64decode(taken["data"]))


def test_the_slider_and_its_buttons_move_through_the_rounds(browser):
    shoot(browser, "report")
    [graph] = shown_graphs(browser)
    assert arrows(graph) == console_market.settlement(4).clearing.imports.sum()
    slider = one(browser, "input[type=range]")
    assert slider.get_attribute("aria-valuetext").startswith("Round 4: delivered")
    slider.send_keys(Keys.HOME)  # with the keyboard
    [graph] = shown_graphs(browser)
    assert one(browser, ".stepper output").text == "Round 0"
    assert arrows(graph) == console_market.settlement(0).clearing.imports.sum()
    earlier, later = browser.find_elements(By.CSS_SELECTOR, ".stepper button")
    assert not earlier.is_enabled()
    later.click()
    later.click()
    assert one(browser, ".stepper output").text == "Round 2"
    assert arrows(shown_graphs(browser)[0]) == 0
    assert "the operator stopped it" in one(browser, "#market").text
    slider.send_keys(Keys.END)
    assert one(browser, ".stepper output").text == "Round 5"
    assert not later.is_enabled()


def test_a_node_that_is_pointed_at_brings_out_what_it_is_tied_to(browser):
    slider = one(browser, "input[type=range]")
    slider.send_keys(Keys.HOME)
    [graph] = shown_graphs(browser)
    script = "arguments[0].dispatchEvent(new PointerEvent(arguments[1]))"
    node = graph.find_element(By.CSS_SELECTOR, ".node")
    browser.execute_script(script, node, "pointerenter")
    imports = console_market.settlement(0).clearing.imports
    lit = graph.find_elements(By.CSS_SELECTOR, ".edges .lit")
    assert len(lit) == imports[0].sum() + imports[:, 0].sum()
    browser.execute_script(script, node, "pointerleave")
    assert graph.find_elements(By.CSS_SELECTOR, ".edges .lit") == []


def test_it_is_dark_as_the_system_is_or_as_one_wishes(browser):
    paper = "return getComputedStyle(document.body).backgroundColor"
    emulate(browser, theme="dark")
    assert browser.execute_script(paper) == "rgb(21, 24, 27)"
    shoot(browser, "report-dark")
    one(browser, "#theme").click()
    assert browser.execute_script(paper) == "rgb(251, 251, 249)"
    one(browser, "#theme").click()
    assert browser.execute_script(paper) == "rgb(21, 24, 27)"
    emulate(browser, theme="dark", media="print")
    assert browser.execute_script(paper) == "rgb(251, 251, 249)"


@pytest.mark.parametrize("script", [True, False])
def test_it_fits_a_telephone_also_without_a_script(browser, report, script):
    emulate(browser, TELEPHONE, "dark", script=script)
    browser.get(report.as_uri())
    size = browser.execute_cdp_cmd("Page.getLayoutMetrics", {})["cssContentSize"]
    assert size["width"] == 360
    assert len(shown_graphs(browser)) == 1  # the last settled round
    sliders = browser.find_elements(By.CSS_SELECTOR, "input[type=range]")
    assert len(sliders) == int(script)
    if not script:
        steps = browser.find_elements(By.CSS_SELECTOR, "details.step > summary")
        steps[0].click()
        assert len(shown_graphs(browser)) == 2
    shoot(browser, "report-telephone" if script else "report-without-script")


def test_it_prints(browser):
    printed = browser.print_page()
    content = base64.b64decode(printed)
    assert content[:5] == b"%PDF-"
    SHOTS.mkdir(parents=True, exist_ok=True)
    (SHOTS / "report.pdf").write_bytes(content)
    folded = "return document.querySelectorAll('details:not(.step)[open]').length"
    assert browser.execute_script(folded) == 0  # as it was
