"""The HTML report in a browser: no error, no request; sorting and filtering work; a name stays text."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from qtool.plan.model import RegionNote
from qtool.report.html.report import to_html
from qtool.report.model import Explained
from tests.report.made import FULL, named

# Without these Chromium asks Google's servers for updates.
_QUIET = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
).split()
EVIL = "</code><script>document.title='owned'</script>"
OPS = ["MatMul", "Add", "Conv"]
NODES = tuple(Explained(f"node{i}", OPS[i % 3], "float", f"reason {i}") for i in range(30))
REGIONS = tuple(RegionNote((f"node{i}",), (i * 7) % 30, i, 20.0, False, "slower") for i in range(30))


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    path = shutil.which("chromium") or shutil.which("google-chrome")
    assert path, "apt-get install chromium"
    with sync_playwright() as playwright:
        yield playwright.chromium.launch(executable_path=path, args=_QUIET)


class Opened:
    """A page, what its console said, and what it asked for."""

    def __init__(self, browser: Browser, file: Path, width: int = 1400, dark: bool = False) -> None:
        self.page: Page = browser.new_page(
            viewport={"width": width, "height": 900}, color_scheme="dark" if dark else "light"
        )
        self.console: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda message: self.console.append(message.text))
        self.page.on("pageerror", lambda error: self.console.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(file.as_uri())

    def column(self, index: int) -> list[str]:
        """The cells of a column of the table of nodes that are shown."""
        rows = self.page.locator("table", has_text="node29").locator("tbody tr:visible")
        return rows.locator(f"td:nth-child({index})").all_inner_texts()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "report.html"
    path.write_text(to_html(replace(FULL, nodes=NODES, regions=REGIONS)), encoding="utf-8")
    return path


@pytest.mark.parametrize("width", [390, 1400])
@pytest.mark.parametrize("dark", [False, True])
def test_it_opens_without_a_word_and_fits(browser: Browser, file: Path, width: int, dark: bool) -> None:
    opened = Opened(browser, file, width, dark)
    assert opened.console == []
    assert opened.requests == [file.as_uri()]
    assert opened.page.evaluate("document.documentElement.scrollWidth") <= width
    assert opened.page.locator("svg.chart").first.bounding_box()["height"] > 50


def test_columns_sort_as_numbers_by_mouse_and_by_keyboard(browser: Browser, file: Path) -> None:
    opened = Opened(browser, file)
    head = opened.page.get_by_role("button", name="float µs")
    head.click()
    numbers = [float(text) for text in opened.column(4)]
    assert numbers == sorted(numbers) and len(numbers) == 30
    head.press("Enter")
    assert [float(text) for text in opened.column(4)] == numbers[::-1]
    opened.page.get_by_role("button", name="node", exact=True).first.click()
    assert opened.column(1)[:3] == ["node0", "node1", "node2"]
    assert opened.console == []


def test_every_word_filters(browser: Browser, file: Path) -> None:
    opened = Opened(browser, file)
    field = opened.page.get_by_label("Filter")
    field.fill("conv reason")
    assert set(opened.column(2)) == {"Conv"} and len(opened.column(2)) == 10
    assert opened.page.get_by_text("10 of 30 rows").is_visible()
    field.fill("")
    assert len(opened.column(2)) == 30


def test_a_script_in_a_name_stays_text(browser: Browser, tmp_path: Path) -> None:
    path = tmp_path / "evil.html"
    path.write_text(to_html(named(EVIL)), encoding="utf-8")
    opened = Opened(browser, path)
    assert "owned" not in opened.page.title().split()
    assert opened.page.evaluate("document.scripts.length") == 1
    assert EVIL in opened.page.locator("header code").first.inner_text()
    assert opened.console == []


def test_the_policy_stops_other_code(browser: Browser, tmp_path: Path) -> None:
    """The page would be safe even if a name got through."""
    path = tmp_path / "broken.html"
    injected = "<script>document.title='owned'</script></main>"
    path.write_text(to_html(FULL).replace("</main>", injected), encoding="utf-8")
    opened = Opened(browser, path)
    assert opened.page.title() != "owned"
    assert any("Content Security Policy" in message for message in opened.console)


def test_in_print_all_is_open(browser: Browser, file: Path) -> None:
    opened = Opened(browser, file)
    opened.page.pdf(path=str(file.with_suffix(".pdf")))
    opened.page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert opened.page.locator("details:not([open])").count() == 0
