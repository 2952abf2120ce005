"""For tests of pages: a headless Chromium, and what its tabs ask for and complain about. Skips where there is none."""
import shutil
from contextlib import contextmanager

import pytest


class Notes:
    """``requests``: addresses, of web sockets too; ``complaints``: (kind, text) of the console and of the page."""

    def __init__(self):
        self.requests, self.complaints = [], []

    def listen_to(self, tab):
        tab.on("request", lambda request: self.requests.append(request.url))
        tab.on("websocket", lambda websocket: self.requests.append(websocket.url))
        tab.on("console", lambda message: self.complaints.append((message.type, message.text)))
        tab.on("pageerror", lambda error: self.complaints.append(("error", str(error))))


def browser_program():
    """A Chromium on this machine; None where there is none."""
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)


@contextmanager
def chromium():
    """A function that opens a tab of its own session, with the notes of it; it takes the width and the height."""
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")
    if browser_program() is None:
        pytest.skip("needs Chromium: apt-get install chromium")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=browser_program(), args=["--no-sandbox"])

        def open_tab(width, height):
            tab, notes = browser.new_page(viewport={"width": width, "height": height}), Notes()
            notes.listen_to(tab)
            return tab, notes

        yield open_tab
        browser.close()
