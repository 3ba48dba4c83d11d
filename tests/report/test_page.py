"""The page in a real browser: no network, no violation of its policy, nothing cut off, it works."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from coincide.ledger.result import Result
from coincide.report.build import build_report
from tests.report.browser import NAMES, Browser, browser, installed
from tests.report.fixture import result, sweep
from tests.report.shelf import DATA, fill

EVIL = '<script>document.title="owned"</script><img src=x onerror="document.title=1">$x^{ |'

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        installed() is None,
        reason=f"needs one of {', '.join(NAMES)} on the PATH, e.g. apt-get install chromium",
    ),
]


def results(store: Path) -> list[Result]:
    """A sweep with its store, a hostile run, and one that the store knows nothing of."""
    runs = fill(store, sweep(methods=4, budgets=(0.1, 0.2)), clusters=60)
    for path in store.glob("eval/counting-full-*/samples.jsonl"):
        path.write_text(path.read_text().replace("which?", EVIL.replace('"', '\\"')))
    annotations = store / "data" / DATA / "train.json"
    annotations.write_text(annotations.read_text().replace("thing 7", EVIL.replace('"', '\\"')))
    hostile = result(EVIL, 0, (50.0, None, 70.0), composition={EVIL: 800})
    return [*runs, replace(hostile, variant=EVIL, commit=EVIL, keys={EVIL: EVIL})]


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    return build_report(results(folder / "store"), folder, folder / "store")["html"]


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    program = installed()
    assert program is not None
    with browser(program, tmp_path_factory.mktemp("profile")) as found:
        yield found


def unpack(tab: Browser) -> None:
    """Open samples and clusters, and wait until they are there."""
    tab.ask("document.querySelectorAll('details.exhibit').forEach((node) => { node.open = true; })")
    shown = (
        "[...document.querySelectorAll('details.exhibit')].every(n => n.dataset.done === 'shown')"
    )
    for _ in range(200):
        if tab.ask(shown):
            return
        time.sleep(0.05)
    raise AssertionError("the page did not unpack its exhibits")


@pytest.mark.parametrize("width", [1400, 420])
def test_it_opens_without_a_complaint_and_fits(page: Path, tab: Browser, width: int) -> None:
    tab.problems.clear()
    tab.open(page, width)
    unpack(tab)
    assert tab.ask("document.title") == "Data selection: comparison"
    assert tab.ask("document.documentElement.scrollWidth") <= width
    assert tab.ask("document.querySelectorAll('svg').length") == 4
    assert tab.ask("document.querySelectorAll('script:not([type])').length") == 1
    assert tab.ask("document.querySelectorAll('article').length") == 24 + 24
    sources = (
        "[...document.images].every(n => n.src.startsWith('data:image/') && n.naturalWidth > 0)"
    )
    assert tab.ask(sources)
    assert tab.problems == []


def test_the_policy_is_in_force(page: Path, tab: Browser) -> None:
    """A script added to the page is refused, and such refusals are what the test above sees."""
    broken = page.with_name("broken.html")
    broken.write_text(page.read_text().replace("</main>", "<script>document.title = 1</script>"))
    tab.problems.clear()
    tab.open(broken, 1400)
    assert tab.ask("document.title") == "Data selection: comparison"
    assert "Content Security Policy" in "".join(tab.problems)


def test_text_from_samples_and_examples_is_shown_and_does_nothing(page: Path, tab: Browser) -> None:
    tab.problems.clear()
    tab.open(page, 1400)
    unpack(tab)
    choose(tab, "Benchmark", "counting")
    text = tab.ask("document.querySelector('details.exhibit').textContent")
    assert EVIL in text
    fill_in(tab, "clusters", EVIL[:20])
    assert "found among 60 clusters" in tab.ask(_CLUSTERS + ".textContent")
    assert tab.ask(_CLUSTERS + ".querySelectorAll('article').length") > 0
    assert EVIL in tab.ask(_CLUSTERS + ".textContent")
    assert tab.ask("document.title") == "Data selection: comparison"
    assert tab.ask("document.querySelectorAll('article script, article img[onerror]').length") == 0
    assert tab.problems == []


def test_clusters_can_be_searched_ordered_and_gone_through(page: Path, tab: Browser) -> None:
    tab.open(page, 1400)
    unpack(tab)
    cards = _CLUSTERS + ".querySelectorAll('article').length"
    tab.ask(_CLUSTERS + ".querySelector('button.more').click()")
    assert tab.ask(cards) == 48
    fill_in(tab, "clusters", "#12")
    assert tab.ask(cards) == 1
    assert tab.ask(_CLUSTERS + ".querySelector('h5').textContent") == "Cluster #12"
    fill_in(tab, "clusters", "no such words")
    assert tab.ask(cards) == 0
    fill_in(tab, "clusters", "")
    choose(tab, "Order", "density")
    figures = _CLUSTERS + ".querySelectorAll('dl')"
    found = [
        float(x) for x in tab.ask(f"[...{figures}].map(n => n.children[3].lastChild.textContent)")
    ]
    assert found == sorted(found, reverse=True)


def test_two_runs_are_set_side_by_side(page: Path, tab: Browser) -> None:
    """Where they differ most first; only those where asked; searched; with the verdict."""
    tab.open(page, 1400)
    unpack(tab)
    choose(tab, "Second", "random, 20%, seed 1")
    scores = tab.ask(
        "[...document.querySelectorAll('.answers')].map(n => [...n.children].map("
        "m => Number(m.lastChild.textContent.split(' ')[1])))"
    )
    apart = [abs(a - b) for a, b in scores]
    assert apart == sorted(apart, reverse=True)
    tab.ask("document.querySelector('.tick input').click()")
    assert tab.ask("document.querySelectorAll('.answers').length") == sum(x > 0 for x in apart)
    text = tab.ask("document.querySelector('details.exhibit p').textContent")
    assert "First minus second, over all seeds" in text
    assert "40 were measured" in text
    choose(tab, "Second", next(x for x in labels(tab) if x.startswith("<script>")))
    text = tab.ask("document.querySelector('details.exhibit p').textContent")
    assert "its samples are not in this store" in text


def test_a_click_sorts_and_missing_numbers_stay_last(page: Path, tab: Browser) -> None:
    tab.open(page, 1400)
    heads = "[...document.querySelector('table').tHead.rows[0].cells]"
    at = tab.ask(f"{heads}.findIndex(n => n.textContent === 'counting')")
    column = f"[...document.querySelector('tbody').rows].map(row => row.cells[{at}].dataset.sort)"
    for descending in (True, False):
        tab.ask(f"{heads}[{at}].firstChild.click()")
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
        unpack(tab)
        assert tab.ask(_LEAST_CONTRAST) >= 4.5, scheme


def test_of_a_long_table_words_choose_rows_and_what_is_long_is_folded(
    tab: Browser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for plot in ("rel_plot", "cost_plot", "small_multiples", "composition_plot"):
        monkeypatch.setattr(f"coincide.report.page.{plot}", lambda *_: "")
    tab.problems.clear()
    tab.open(build_report(sweep(seeds=1), tmp_path)["html"], 1400)
    rows = "[...document.querySelectorAll('.ranked tbody tr')]"
    said = "document.querySelector('output').textContent"
    assert tab.ask(f"{rows}.length") == 28 and tab.ask(said) == "28 rows"
    tab.ask(
        "(() => { const input = document.querySelector('input[data-filters]');"
        "input.value = 'Coincide 40%'; input.dispatchEvent(new Event('input')); })()"
    )
    assert tab.ask(said) == "1 of 28 rows"
    shown = tab.ask(f"{rows}.filter((row) => row.offsetHeight > 0).map((row) => row.innerText)")
    assert len(shown) == 1 and "coincide" in shown[0] and "40%" in shown[0]
    runs = "document.querySelectorAll('details.run').length"
    assert tab.ask(runs) == 28
    assert tab.ask("[...document.querySelectorAll('details.long')].every((node) => !node.open)")
    assert tab.ask("document.documentElement.scrollWidth") <= 1400 and not tab.problems


_CLUSTERS = "document.querySelectorAll('details.exhibit')[1]"


def choose(tab: Browser, label: str, option: str) -> None:
    """Choose an option of the select under ``label``."""
    chosen = tab.ask(
        f"(() => {{ const found = [...document.querySelectorAll('label')].find("
        f"n => n.firstChild.textContent === {label!r}).querySelector('select');"
        f"const option = [...found.options].find(n => n.text === {option!r});"
        "found.value = option.value; found.dispatchEvent(new Event('change'));"
        "return option.text; })()"
    )
    assert chosen == option


def labels(tab: Browser) -> list[str]:
    """The runs that can be chosen."""
    return tab.ask("[...document.querySelectorAll('select')[2].options].map(n => n.text)")


def fill_in(tab: Browser, exhibit: str, text: str) -> None:
    """Type into the search of an exhibit."""
    tab.ask(
        "(() => { const found = document.querySelector("
        f"'[data-shows={exhibit}] input[type=search]');"
        f"found.value = {text!r}; found.dispatchEvent(new Event('input')); }})()"
    )


_LEAST_CONTRAST = """(() => {
  const numbers = (text) => text.match(/[0-9.]+/g).map(Number);
  const light = (rgb) => rgb.slice(0, 3).map((v) => v / 255)
    .map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const over = (top, below) => top.length === 3 ? top
    : [0, 1, 2].map((i) => top[3] * top[i] + (1 - top[3]) * below[i]);
  const behind = (node) => {
    if (!node) return [255, 255, 255];
    const rgb = numbers(getComputedStyle(node).backgroundColor);
    return rgb.length === 3 || rgb[3] === 1 ? rgb : over(rgb, behind(node.parentElement));
  };
  const kinds = "h1,h2,h3,h4,h5,p,li,th,td,small,summary,code,dt,dd,a,b,span,label,option,button";
  const texts = [...document.querySelectorAll(kinds)].filter((node) => node.textContent.trim());
  return Math.min(...texts.map((node) => {
    const [a, b] = [light(numbers(getComputedStyle(node).color)), light(behind(node))];
    return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
  }));
})()"""
