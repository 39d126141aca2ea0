"""The page in a browser: at a phone's and a desk's width, in light and dark."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from browser import NAMES, Browser, executable
from planted import plant

from openrlhf_pf.cli.analyze import main

pytestmark = [
    pytest.mark.end_to_end,
    pytest.mark.skipif(
        executable() is None,
        reason=f"none of {', '.join(NAMES)} is in PATH: install one, on Debian by apt-get install chromium",
    ),
]

VIEWS = [(width, dark) for width in (390, 1440) for dark in (False, True)]
PHONE_TEXT = 11  # CSS pixels

#: What is wrong with text: too little contrast (WCAG 2.2, 1.4.3), or too small, cut off or overlapping in a figure.
TEXT = """
(() => {
  const numbers = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const linear = (c) => (c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
  const luminance = ([r, g, b]) => 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
  const ground = (element) => {
    for (let e = element; e; e = e.parentElement) {
      const colour = numbers(getComputedStyle(e).backgroundColor);
      if (colour.length < 4 || colour[3] === 1) return colour;
      if (colour[3] > 0) throw new Error("a ground that shines through");
    }
    return [255, 255, 255];
  };
  const wrong = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  let count = 0;
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement, text = walker.currentNode.data.trim();
    if (!text || !element.checkVisibility()) continue;
    count += 1;
    const style = getComputedStyle(element), svg = element.closest("svg");
    const values = [numbers(svg ? style.fill : style.color), ground(element)].map(luminance).sort((a, b) => b - a);
    const ratio = (values[0] + 0.05) / (values[1] + 0.05);
    const size = parseFloat(style.fontSize), large = size >= 24 || (size >= 18.66 && style.fontWeight >= 700);
    if (ratio < (large ? 3 : 4.5)) wrong.push(`contrast ${ratio.toFixed(2)}: ${text}`);
  }
  for (const svg of document.querySelectorAll("svg")) {
    const frame = svg.getBoundingClientRect(), texts = [...svg.querySelectorAll("text")];
    const boxes = texts.map((t) => t.getBoundingClientRect());
    texts.forEach((t, i) => {
      const m = t.getScreenCTM(), size = parseFloat(getComputedStyle(t).fontSize) * Math.hypot(m.a, m.b), a = boxes[i];
      if (size < PHONE_TEXT) wrong.push(`${size.toFixed(1)} px: ${t.textContent}`);
      if (a.left < frame.left - 1 || a.right > frame.right + 1 || a.top < frame.top - 1 || a.bottom > frame.bottom + 1)
        wrong.push(`cut off: ${t.textContent}`);
      boxes.slice(i + 1).forEach((b, j) => {
        const across = Math.min(a.right, b.right) - Math.max(a.left, b.left);
        const down = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
        if (across > 1 && down > 3) wrong.push(`overlap: ${t.textContent} and ${texts[i + 1 + j].textContent}`);
      });
    });
  }
  return {count, wrong};
})()
""".replace("PHONE_TEXT", str(PHONE_TEXT))

#: What is cut off without a way to scroll to it, or scrolls without a name, a shadow or a way there by keyboard.
OVERFLOW = """
[...document.querySelectorAll("body *:not(svg *)")].flatMap((e) => {
  const style = getComputedStyle(e), name = `${e.tagName} ${e.className} ${e.textContent.trim().slice(0, 40)}`;
  if (!e.checkVisibility() || e.scrollWidth <= e.clientWidth + 1 || style.display === "inline") return [];
  if (style.overflowX === "visible") return [];
  if (style.overflowX === "hidden") return [`cut off: ${name}`];
  const named = e.getAttribute("role") === "region" && e.getAttribute("aria-label") && e.tabIndex === 0;
  const shadow = style.backgroundImage.includes("gradient") && style.backgroundAttachment.includes("local");
  return named && shadow ? [] : [`scrolls unseen: ${name}`];
})
"""

#: Everything that the keyboard has to reach, and a note on each when it does.
WATCH = """
(() => {
  window.stops = [...document.querySelectorAll("a[href], summary, .scroll")].filter((e) => e.checkVisibility());
  window.reached = new Set();
  window.unseen = [];
  document.addEventListener("focusin", ({target}) => {
    window.reached.add(target);
    const style = getComputedStyle(target);
    if (style.outlineStyle === "none" || parseFloat(style.outlineWidth) < 2) window.unseen.push(target.className);
  });
  document.activeElement.blur();
  return window.stops.length;
})()
"""
MISSED = """
window.stops.filter((e) => !window.reached.has(e)).map((e) => `${e.tagName} ${e.textContent.trim().slice(0, 40)}`)
  .concat(window.unseen.map((name) => `no outline: ${name}`))
"""
OPEN = "document.querySelectorAll('details').forEach((d) => { d.open = true; })"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    opened = Browser(executable() or "", tmp_path_factory.mktemp("profile"))
    yield opened
    opened.close()


def write(path: Path, setting: str, n_prompts: int, n_samples: int, name: str, seed: int) -> Path:
    planted = plant(setting, n_prompts, n_samples, seed)
    reward, count = np.tanh(planted.reward).ravel(), planted.reward.size
    columns = {
        "prompt_id": np.repeat([f"p{i}" for i in range(n_prompts)], n_samples),
        "reward": reward,
        "score": planted.score.ravel(),
        "step": np.repeat(np.arange(n_prompts) * 20 // n_prompts, n_samples),
        "response_tokens": np.random.default_rng(0).integers(1, 999, count),
        "checkpoint": [name] * count,
    }
    pq.write_table(pa.table({key: pa.array(values) for key, values in columns.items()}), path)
    return path


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One with everything, of two checkpoints with long names; one where nothing is decided."""
    folder = tmp_path_factory.mktemp("pages")
    long = ["reward-model-8b-after-3-epochs", "reward-model-8b-after-4-epochs"]
    full = [write(folder / f"{i}.parquet", "wrong at the top", 300, 10, name, i) for i, name in enumerate(long)]
    useless = [write(folder / "2.parquet", "useless", 60, 3, "one", 0)]
    for name, files in (("full", full), ("useless", useless)):
        assert main([*map(str, files), "--output", str(folder / name), "--bootstrap", "100"]) == 0
    return {name: folder / name / "report.html" for name in ("full", "useless")}


@pytest.mark.parametrize("width, dark", VIEWS)
@pytest.mark.parametrize("name", ["full", "useless"])
def test_the_page_can_be_read(browser: Browser, pages: dict[str, Path], name: str, width: int, dark: bool) -> None:
    browser.open(pages[name], width, dark)
    closed = browser.ask("document.documentElement.scrollHeight")
    for opened in (False, True):
        if opened:
            browser.ask(OPEN)
        # Not window.innerWidth: a phone zooms out until the page fits.
        assert browser.ask("document.documentElement.scrollWidth") <= width
        assert browser.ask(OVERFLOW) == []
        found = browser.ask(TEXT)
        assert found["wrong"] == [] and found["count"] > 200
    assert browser.ask("document.documentElement.scrollHeight") > closed
    ground = browser.ask("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)")
    assert (max(ground) < 60) if dark else (min(ground) > 200)
    pictures = pages[name].parent / f"{width}-{'dark' if dark else 'light'}.png"
    browser.picture(pictures)
    assert pictures.stat().st_size > 50_000


@pytest.mark.parametrize("opened", [False, True])
def test_the_keyboard_reaches_everything(browser: Browser, pages: dict[str, Path], opened: bool) -> None:
    browser.open(pages["full"], 390, False)
    if opened:
        browser.ask(OPEN)
    stops = browser.ask(WATCH)
    assert stops >= (7 if opened else 5)
    for _ in range(stops + 2):
        browser.press_tab()
    assert browser.ask(MISSED) == []


def test_the_wide_table_says_that_it_goes_on_and_keeps_its_first_column(
    browser: Browser, pages: dict[str, Path]
) -> None:
    browser.open(pages["full"], 390, False)
    browser.ask(OPEN)
    wide = "[...document.querySelectorAll('.scroll')].find((e) => e.getAttribute('aria-label').startsWith('Every'))"
    assert browser.ask(f"{wide}.scrollWidth > 2 * {wide}.clientWidth")
    assert browser.ask(f"/\\d+ columns: scroll sideways/.test({wide}.previousElementSibling.textContent)")
    left = browser.ask(f"(({wide}).scrollLeft = 600, {wide}.querySelector('tbody th').getBoundingClientRect().left)")
    assert left == browser.ask(f"{wide}.getBoundingClientRect().left")


def test_figures_have_alt_texts_with_what_is_seen(browser: Browser, pages: dict[str, Path]) -> None:
    browser.open(pages["full"], 390, False)
    alts = browser.ask("[...document.querySelectorAll('[role=img]')].map((e) => e.getAttribute('aria-label'))")
    assert len(alts) == len(set(alts)) >= 10
    assert [alt for alt in alts if len(alt) < 60 or not any(c.isdigit() for c in alt)] == []
