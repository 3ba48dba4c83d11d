"""The page in a real browser: no network, no violation of its policy, nothing cut off, it sorts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from coincide.report.build import build_report
from coincide.schema import Result
from tests.report.browser import NAMES, Browser, browser, installed
from tests.report.fixture import result, sweep

EVIL = '<script>document.title="owned"</script><img src=x onerror="document.title=1">$x^{ |'

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        installed() is None,
        reason=f"needs one of {', '.join(NAMES)} on the PATH, e.g. apt-get install chromium",
    ),
]


def results() -> list[Result]:
    hostile = result(EVIL, 0, (50.0, None, 70.0), composition={EVIL: 800})
    return [*sweep(), replace(hostile, variant=EVIL, commit=EVIL, keys={EVIL: EVIL})]


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_report(results(), tmp_path_factory.mktemp("report"))["html"]


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    program = installed()
    assert program is not None
    with browser(program, tmp_path_factory.mktemp("profile")) as found:
        yield found


@pytest.mark.parametrize("width", [1400, 420])
def test_it_opens_without_a_complaint_and_fits(page: Path, tab: Browser, width: int) -> None:
    tab.problems.clear()
    tab.open(page, width)
    assert tab.ask("document.title") == "Data selection: comparison"
    assert tab.ask("document.documentElement.scrollWidth") <= width
    assert tab.ask("document.querySelectorAll('svg').length") == 2
    assert tab.ask("document.querySelectorAll('script').length") == 1
    assert tab.ask("document.querySelectorAll('img').length") == 0
    assert tab.problems == []


def test_the_policy_is_in_force(page: Path, tab: Browser) -> None:
    """A script added to the page is refused, and such refusals are what the test above sees."""
    broken = page.with_name("broken.html")
    broken.write_text(page.read_text().replace("</main>", "<script>document.title = 1</script>"))
    tab.problems.clear()
    tab.open(broken, 1400)
    assert tab.ask("document.title") == "Data selection: comparison"
    assert "Content Security Policy" in "".join(tab.problems)


def test_a_click_sorts_and_missing_numbers_stay_last(page: Path, tab: Browser) -> None:
    tab.open(page, 1400)
    column = "[...document.querySelector('tbody').rows].map(row => row.cells[7].dataset.sort)"
    for descending in (True, False):
        tab.ask("document.querySelectorAll('table')[0].tHead.rows[0].cells[7].firstChild.click()")
        found = tab.ask(column)
        assert found[-1] == ""
        numbers = [float(text) for text in found[:-1]]
        assert numbers == sorted(numbers, reverse=descending)


def test_text_is_told_from_its_background(page: Path, tab: Browser) -> None:
    """WCAG contrast of at least 4.5 for all text, light and dark."""
    for scheme in ("light", "dark"):
        feature = {"name": "prefers-color-scheme", "value": scheme}
        tab.call("Emulation.setEmulatedMedia", features=[feature])
        tab.open(page, 1400)
        assert tab.ask(_LEAST_CONTRAST) >= 4.5, scheme


_LEAST_CONTRAST = """(() => {
  const numbers = (text) => text.match(/[0-9.]+/g).map(Number);
  const light = (rgb) => rgb.slice(0, 3).map((v) => v / 255)
    .map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = (node) => {
    for (; node; node = node.parentElement) {
      const rgb = numbers(getComputedStyle(node).backgroundColor);
      if (rgb.length === 3 || rgb[3] > 0) return rgb;
    }
  };
  const texts = [...document.querySelectorAll("h1,h2,h3,p,li,th,td,small,summary,code,dt,dd,a")];
  return Math.min(...texts.map((node) => {
    const [a, b] = [light(numbers(getComputedStyle(node).color)), light(behind(node))];
    return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
  }));
})()"""
