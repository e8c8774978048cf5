"""A headless Chromium for tests of the page, and a service as people start it."""

import base64
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from serve.cohort import SHAPE, SPACING_MM

QUIET = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--disable-quic",
)  # fmt: skip

MARGIN = 0.94
"""Share of a pane that the image fills, as in `pane.js`."""


@contextmanager
def chromium(size=(1400, 900), *, dark=False) -> Iterator:
    """A browser; skips the test where there is none."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="install the extra `dev`")
    browser, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if browser is None or driver is None:
        pytest.skip("there is no chromium with chromedriver, such as Debian's chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    scheme = f"--blink-settings=preferredColorScheme={0 if dark else 1}"
    for argument in (*QUIET, scheme, "--window-size={},{}".format(*size)):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    service = webdriver.ChromeService(driver)
    opened = webdriver.Chrome(options=options, service=service)
    try:
        yield opened
    finally:
        opened.quit()


@contextmanager
def serving(folder: Path, *options: str, end=signal.SIGTERM) -> Iterator[str]:
    """The address of `wsicl serve` on a folder, which is ended by a signal."""
    command = [sys.executable, "-m", "wsicl_jax", "serve", "--no-browser", "--port", "0"]
    process = subprocess.Popen(
        [*command, *options, str(folder)], stdout=subprocess.PIPE, text=True, env=os.environ
    )
    try:
        assert process.stdout is not None
        told = process.stdout.readline()
        found = re.search(r"http://\S+", told)
        assert found, told
        yield found[0]
    finally:
        process.send_signal(end)
        process.wait(30)


class Page:
    """The page as a person uses it, by mouse and keyboard."""

    def __init__(self, browser, address: str):
        from selenium.webdriver.common.by import By

        self.browser, self._by = browser, By
        browser.get(address)
        self.wait(lambda: self.find("#images li.shown"), "the first image")
        self.wait(lambda: "Loading" not in self.status, "the first image")

    def find(self, selector: str):
        found = self.browser.find_elements(self._by.CSS_SELECTOR, selector)
        return found[0] if found else None

    @property
    def status(self) -> str:
        return self.text("#status")

    def text(self, selector: str) -> str:
        """Of all elements together."""
        # In one step: the page may replace its elements at any time.
        script = "return [...document.querySelectorAll(arguments[0])].map((x) => x.innerText)"
        return "\n".join(self.browser.execute_script(script, selector))

    def wait(self, condition, what: str, seconds=90):
        deadline = time.monotonic() + seconds
        while not (found := condition()):
            assert time.monotonic() < deadline, f"no {what}; the page says {self.status!r}"
            time.sleep(0.02)
        return found

    def click(self, selector: str):
        self.find(selector).click()

    def show(self, name: str):
        self.click(f"#images li[data-image='{name}.nii.gz'] .name")
        self.wait(lambda: self.status == name, name)

    def use(self, name: str, role: str):
        from selenium.webdriver.support.ui import Select

        row = f"#images li[data-image='{name}.nii.gz']"
        Select(self.find(f"{row} select")).select_by_value(role)
        self.wait(lambda: self.find(f"{row}.{role}"), f"{name} as {role}")

    def pixel(self, position) -> tuple[int, int]:
        """Place of a position in RAS+ voxels in the axial pane, from its middle."""
        size = self.find("#axial").size
        extents = [SHAPE[d] * SPACING_MM[d] for d in (0, 1)]
        scale = MARGIN * min(size["width"] / extents[0], size["height"] / extents[1])
        x, y = ((position[d] - (SHAPE[d] - 1) / 2) * SPACING_MM[d] * scale for d in (0, 1))
        return round(x), round(-y)

    def drag(self, *positions):
        """Press, move and release the mouse in the axial pane; one position is a click."""
        from selenium.webdriver.common.action_chains import ActionChains

        before = self.text("#prompts li")
        pane = self.find("#axial")
        first, *others = map(self.pixel, positions)
        actions = ActionChains(self.browser, duration=30)
        actions.move_to_element_with_offset(pane, *first).click_and_hold()
        for place in others:
            actions.move_to_element_with_offset(pane, *place)
        actions.release().perform()
        self.wait(lambda: self.text("#prompts li") != before, "new prompt")

    def press(self, key: str, times: int = 1):
        """Press a key, by Selenium's name of it."""
        from selenium.webdriver.common.action_chains import ActionChains
        from selenium.webdriver.common.keys import Keys

        ActionChains(self.browser).send_keys(getattr(Keys, key) * times).perform()

    def draw_box(self, mask: np.ndarray):
        """A tight box around a mask (in RAS+ voxels) on the axial slice shown, the middle one."""
        u, v = np.nonzero(mask[:, :, (SHAPE[2] - 1) // 2])
        self.click("[data-tool=box]")
        corners = (u.min(), v.min()), ((u.min() + u.max()) / 2, v.max()), (u.max(), v.max())
        self.drag(*corners)

    def segment(self, selector: str, said: str) -> str:
        """Click a button and wait for the network."""
        self.click(selector)
        return self.wait(lambda: self.status.startswith(said) and self.status, said)

    def drop(self, name: str, content: bytes):
        """Drop a file on the page."""
        script = """
            const bytes = Uint8Array.from(atob(arguments[1]), (x) => x.charCodeAt(0));
            const files = new DataTransfer();
            files.items.add(new File([bytes], arguments[0]));
            const settings = { dataTransfer: files, cancelable: true };
            document.dispatchEvent(new DragEvent("dragover", settings));
            document.dispatchEvent(new DragEvent("drop", settings));
        """
        self.browser.execute_script(script, name, base64.b64encode(content).decode())
        self.wait(lambda: self.status == f"Added {name}.", f"added {name}")

    def shows_mask(self) -> bool:
        """Whether the colour of the first structure is seen in the axial pane."""
        script = """
            const { width, height } = axial;
            const data = axial.getContext("2d").getImageData(0, 0, width, height).data;
            let count = 0;
            for (let i = 0; i < data.length; i += 4) count += data[i] > data[i + 2] + 60;
            return count;
        """
        return self.browser.execute_script(script) > 200

    def faults(self) -> list[str]:
        """Errors in the browser's console."""
        log = self.browser.get_log("browser")
        return [entry["message"] for entry in log if entry["level"] == "SEVERE"]
