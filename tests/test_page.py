"""The page without a browser: what it says, in what order, and that nothing in it leads outside."""

import json
import re
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser

import numpy as np
import pytest

from openrlhf_pf.filters import FILTERS, LearningFilter
from openrlhf_pf.reliability import Rollouts, Settings, analyse_rollouts, curves, report, seen
from openrlhf_pf.reliability.curves import Point
from openrlhf_pf.reliability.planted import plant
from openrlhf_pf.reliability.svg import PALETTE
from openrlhf_pf.reliability.words import CAPTIONS, FILTER_MEANINGS, TERMS, Glossary

EMPTY = {"meta", "br", "link", "img"}


class Page(HTMLParser):
    """Text of each ``data-block``, headings, and what is wrong with the markup."""

    def __init__(self, text):
        super().__init__()
        self.open, self.ids, self.blocks, self.meanings, self.headings = [], [], [], [], []
        self.inside = None
        self.feed(text)
        assert not self.open, self.open

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.ids += [attributes["id"]] if "id" in attributes else []
        if tag not in EMPTY:
            self.open.append((tag, attributes))
        if "data-block" in attributes:
            self.blocks.append("")
            self.meanings.append([])
        if tag[0] == "h" and tag[1:].isdigit():
            self.headings.append(int(tag[1:]))

    def handle_startendtag(self, tag, attributes):
        self.ids += [dict(attributes)["id"]] if "id" in dict(attributes) else []

    def handle_endtag(self, tag):
        assert self.open and self.open[-1][0] == tag, (tag, self.open[-3:])
        self.open.pop()

    def handle_data(self, data):
        tags = [tag for tag, _ in self.open]
        if "style" in tags or not any("data-block" in a for _, a in self.open):
            return
        if "dl" in tags and any(a.get("class") == "words" for _, a in self.open):
            self.meanings[-1] += [data] if tags[-1] == "dt" else []
        elif "svg" not in tags:
            self.blocks[-1] += data + " "


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The directory of a report on two reward models, of which one gets worse over the steps."""
    first, second = plant("noise in the middle", 300, 5), plant("wrong at the top", 300, 5, seed=1)
    first.length = np.random.default_rng(0).integers(1, 99, first.reward.shape)
    first.step = second.step = np.arange(300) // 30
    second.length = first.length
    analysis = analyse_rollouts(Rollouts([first, second]), Settings(repetitions=100))
    folder = tmp_path_factory.mktemp("report")
    report.write(analysis, folder)
    return folder


@pytest.fixture(scope="module")
def page(written):
    return Page((written / "report.html").read_text())


def test_the_markup_is_whole(page):
    assert len(page.ids) == len(set(page.ids))
    assert page.headings[0] == 1 and page.headings.count(1) == 1
    assert all(after - before <= 1 for before, after in zip(page.headings, page.headings[1:]))


def test_each_term_is_explained_where_it_is_used_first(page):
    patterns = {term: pattern for term, pattern, _ in TERMS}
    patterns |= {name: rf"\b{name}\b" for name in FILTER_MEANINGS if name not in ("none", "top")}
    met = 0
    for term, pattern in patterns.items():
        used = [number for number, text in enumerate(page.blocks) if re.search(pattern, text)]
        explained = [number for number, terms in enumerate(page.meanings) if term in terms]
        assert len(explained) <= 1, term
        # The table of filters says what each of them is beside its name.
        table = next(n for n, text in enumerate(page.blocks) if "pairs right" in text)
        if used and term in FILTER_MEANINGS and used[0] == table:
            assert FILTER_MEANINGS[term] in page.blocks[table]
        elif used:
            assert explained and explained[0] <= used[0], term
        met += bool(used)
    assert met >= 12


def test_every_filter_that_can_be_compared_has_a_meaning():
    assert set(FILTER_MEANINGS) == {name for name, cls in FILTERS.items() if not issubclass(cls, LearningFilter)}


def test_a_meaning_is_given_once():
    glossary = Glossary(["best_worst"])
    assert [term for term, _ in glossary.new_in("a gain of 1, best_worst")] == ["gain", "best_worst"]
    assert [term for term, _ in glossary.new_in("the gain", "k = 2")] == ["k"]


def test_figures_are_files_and_follow_light_and_dark(written):
    names = {re.sub(r"-\d+$", "", file.stem) for file in written.glob("*.svg")}
    assert names == set(CAPTIONS)
    for file in written.glob("*.svg"):
        text = file.read_text()
        root = ElementTree.fromstring(text)
        drawn = text.split("</style>")[1]
        assert not re.search(r"(?:fill|stroke): #", drawn), file.name  # a colour that dark would not change
        assert "prefers-color-scheme: dark" in text
        title, description = root[0].text, root[1].text
        assert title == CAPTIONS[re.sub(r"-\d+$", "", file.stem)][0] and re.search(r"\d", description)
        assert root.findall(".//{http://www.w3.org/2000/svg}text"), "text must stay text"


def test_the_same_report_is_the_same_files(written, tmp_path):
    analysis = analyse_rollouts(Rollouts([plant("useless", 50, 3)]), Settings(repetitions=100))
    for name in "ab":
        report.write(analysis, tmp_path / name)
    for file in (tmp_path / "a").iterdir():
        assert file.read_bytes() == (tmp_path / "b" / file.name).read_bytes(), file.name


def luminance(colour):
    channels = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4) @ [
        0.2126,
        0.7152,
        0.0722,
    ]


@pytest.mark.parametrize("dark", [0, 1])
def test_series_stand_out_from_what_they_are_drawn_on(dark):
    """WCAG 2.2, success criterion 1.4.11: 3 for what is not text; 1.4.3: 4.5 for text."""
    least = {"ink": 4.5, "muted": 4.5, "accent": 4.5} | {f"c{number}": 3.0 for number in range(6)}
    for name, ratio in least.items():
        for ground in ("card", "page"):
            values = sorted(luminance(PALETTE[key][dark]) for key in (name, ground))
            assert (values[1] + 0.05) / (values[0] + 0.05) >= ratio, (name, ground)


def test_intervals_below_zero_are_not_read_as_differences(tmp_path):
    planted = plant("useless", 60, 4)
    planted.score = 1 - (planted.reward > 0)
    report.write(analyse_rollouts(Rollouts([planted]), Settings(repetitions=100)), tmp_path)
    page = (tmp_path / "report.html").read_text()
    assert re.search(r"<td>−0[.]\d{3}<small>−0[.]\d{3} to −0[.]\d{3}</small>", page) and "–-" not in page


def test_curves_are_in_the_page_and_in_the_json(written, tmp_path, monkeypatch):
    found = [c["curves"] for c in json.loads((written / "report.json").read_text())["checkpoints"]]
    assert [(p["drawn"], p["trained"]) for p in found[0]["over_k"]["best_of_n"]] == [(5, k) for k in range(1, 6)]
    assert set(found[1]["over_n"]) == {"none", "best_of_n", "best_random", "best_worst", "max_variance"}
    page = (written / "report.html").read_text()
    point = found[0]["over_n"]["best_worst"][0]
    assert f"<td>2</td><td>2</td>\n<td>{point['estimate']:.3f}<small>" in page and "to save time, from" not in page
    monkeypatch.setattr(curves, "MOST_SAMPLES", 1000)
    report.write(analyse_rollouts(Rollouts([plant("useless", 400, 4)]), Settings(repetitions=100)), tmp_path)
    assert "from 250 of the 400 groups" in (tmp_path / "report.html").read_text()


# ── Alt texts ──


def test_alt_texts_say_what_is_seen():
    rows = [
        ("best_worst", {"estimate": 0.3, "low": 0.2, "high": 0.4}),
        ("top", {"estimate": 0.1, "low": None, "high": None}),
    ]
    assert (
        seen.gains("sft", rows)
        == "Gain with interval, sft, largest first: best_worst 0.300 (0.200 to 0.400) and top 0.100."
    )
    points = {"best_worst": [Point(5, 2, 0.3, 0.2, 0.4), Point(5, 3, 0.25, 0.2, 0.3)]}
    assert seen.curves("Gain", points, "trained") == "Gain. best_worst 0.300 with 2, 0.250 with 3."
    assert seen.ranks("sft", np.array([0.7, 0.8, 0.2])).endswith("is 0.70, 0.80, 0.20; it rises from rank 1 to 2.")
    assert seen.ranks("sft", np.array([0.9, 0.8, 0.2])).endswith("it falls from each rank to the next.")
    x, y = np.array([-1.0, 0.0, 2.0]), np.array([0.1, 0.5, 0.4])
    assert seen.reliability(x, y, np.stack([y + 0.02, y - 0.03])) == (
        "The mean true score is 0.10 in the group of the lowest rewards (-1), 0.50 in the middle (0) and 0.40 in that"
        " of the highest (2); from one group to the next it falls 1 of 2 times. Random halves of the prompts lie"
        " within 0.03 of that."
    )
    assert seen.histogram(np.array([]), np.arange(5.0)) == "Half of the 5 correct responses have rewards from 1 to 3."
    windows = [{"first": 0, "last": 4, "estimate": 0.8}, {"first": 5, "last": 9, "estimate": 0.7}]
    assert seen.drift("sft", "pairwise accuracy", windows) == (
        "pairwise accuracy, sft: 0.800 in steps 0 to 4 and 0.700 in steps 5 to 9."
    )
