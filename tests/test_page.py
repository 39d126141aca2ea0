"""The page without a browser: its markup, its figures, its colours."""

import re
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser

import numpy as np
import pytest
from planted import analysed, plant

from openrlhf_pf.filters import FILTERS, LearningFilter
from openrlhf_pf.reliability import write_report
from openrlhf_pf.reliability.report.answers import FILTER_MEANINGS
from openrlhf_pf.reliability.report.figures import FIGURES
from openrlhf_pf.reliability.report.svg import PALETTE

EMPTY = {"meta", "br", "link", "img"}


class Page(HTMLParser):
    """Ids and headings, and whether the markup is whole."""

    def __init__(self, text):
        super().__init__()
        self.open, self.ids, self.headings = [], [], []
        self.feed(text)
        assert not self.open, self.open

    def handle_starttag(self, tag, attributes):
        self.handle_startendtag(tag, attributes)
        self.open += [tag] if tag not in EMPTY else []
        self.headings += [int(tag[1:])] if tag[0] == "h" and tag[1:].isdigit() else []

    def handle_startendtag(self, tag, attributes):
        self.ids += [dict(attributes)["id"]] if "id" in dict(attributes) else []

    def handle_endtag(self, tag):
        assert self.open and self.open.pop() == tag, (tag, self.open[-3:])


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The directory of a report on two reward models."""
    first, second = plant("noise in the middle", 300, 5), plant("wrong at the top", 300, 5, seed=1)
    first.length = np.random.default_rng(0).integers(1, 99, first.reward.shape)
    second.length = first.length
    folder = tmp_path_factory.mktemp("report")
    write_report(analysed(first, second), folder)
    return folder


@pytest.fixture(scope="module")
def page(written):
    return Page((written / "report.html").read_text())


def test_the_markup_is_whole(page):
    assert len(page.ids) == len(set(page.ids))
    assert page.headings[0] == 1 and page.headings.count(1) == 1
    assert all(after - before <= 1 for before, after in zip(page.headings, page.headings[1:]))


def test_every_filter_that_can_be_compared_has_a_meaning():
    assert set(FILTER_MEANINGS) == {name for name, cls in FILTERS.items() if not issubclass(cls, LearningFilter)}


def test_figures_are_files_and_follow_light_and_dark(written):
    names = {re.sub(r"-\d+$", "", file.stem) for file in written.glob("*.svg")}
    assert names == set(FIGURES)
    for file in written.glob("*.svg"):
        text = file.read_text()
        root = ElementTree.fromstring(text)
        drawn = text.split("</style>")[1]
        assert not re.search(r"(?:fill|stroke): #", drawn), file.name  # a colour that dark would not change
        assert "prefers-color-scheme: dark" in text
        title, description = root[0].text, root[1].text
        assert title == FIGURES[re.sub(r"-\d+$", "", file.stem)][0] and re.search(r"\d", description)
        assert root.findall(".//{http://www.w3.org/2000/svg}text"), "text must stay text"


def test_the_same_report_is_the_same_files(written, tmp_path):
    analysis = analysed(plant("useless", 50, 3))
    for name in "ab":
        write_report(analysis, tmp_path / name)
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
    write_report(analysed(planted), tmp_path)
    page = (tmp_path / "report.html").read_text()
    assert re.search(r"<td>−0[.]\d{3}<small>−0[.]\d{3} to −0[.]\d{3}</small>", page) and "–-" not in page
