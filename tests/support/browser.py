"""Debian's Chromium without a screen, and the console as a process of its own."""

import re
import shutil
import subprocess
import sys
import sysconfig
import threading
from contextlib import contextmanager
from pathlib import Path

from selenium import webdriver
from selenium.webdriver.chrome.service import Service

IPFL = Path(sysconfig.get_path("scripts")) / "ipfl"
START_DEADLINE_S = 120.0
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
)


def find_browser():
    """Return the paths of Chromium and its driver; None where they are not."""
    found = shutil.which("chromium"), shutil.which("chromedriver")
    return found if all(found) else None


@contextmanager
def browsing(profile, width=1280, height=900):
    """Give a browser with a new profile in the folder `profile`."""
    chromium, driver = find_browser()
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in (*FLAGS, f"--user-data-dir={profile}", f"--window-size={width},{height}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    browser = webdriver.Chrome(options=options, service=Service(driver))
    try:
        yield browser
    finally:
        browser.quit()


@contextmanager
def serving(ledger, *arguments):
    """Serve a ledger on a free port, and give the address."""
    command = [sys.executable, IPFL, "console", ledger, "--port", "0", *arguments]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as console:
        timer = threading.Timer(START_DEADLINE_S, console.kill)
        timer.start()
        said = []
        try:
            for line in console.stderr:
                said.append(line)
                if found := re.search(r"https?://[\d.]+:\d+", line):
                    break
            else:
                raise RuntimeError("the console did not start: " + "".join(said))
            timer.cancel()
            drain = threading.Thread(target=console.stderr.read, daemon=True)
            drain.start()
            yield found[0]
            console.terminate()
            drain.join(START_DEADLINE_S)
        finally:
            timer.cancel()
            console.kill()
