"""The console's page, as a browser's visitor uses it."""

from pathlib import Path

from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

SHOTS = Path(__file__).parents[2] / "build" / "screenshots"
WAIT_S = 60


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

    def attributes(self, selector, name):
        return self.until(
            lambda: ([element.get_attribute(name) for element in self.all(selector)],), selector
        )[0]

    def status_of(self, path):
        """Return how the console answers the page's own request for a path."""
        script = "const d = arguments[1]; fetch(arguments[0]).then((answer) => d(answer.status))"
        return self.browser.execute_async_script(script, path)

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

    def shrink_to_a_telephone(self, scheme="dark"):
        """Make the window 360 wide: Chromium's own is never narrower than 500."""
        size = {"width": 360, "height": 740, "deviceScaleFactor": 2, "mobile": True}
        self.browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        scheme = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        self.browser.execute_cdp_cmd("Emulation.setEmulatedMedia", scheme)

    def log(self):
        """Return what the browser has complained about since it was asked last."""
        return [entry["message"] for entry in self.browser.get_log("browser")]
