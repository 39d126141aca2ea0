"""A user's own filter: found by path, its options read by type, refused in one sentence."""

import numpy as np
import pytest

from openrlhf_pf.filters import build_filter, filter_class

SOUND = """
from typing import Literal
import numpy as np
from openrlhf_pf import SampleFilter

class Middle(SampleFilter):
    scope = "group"

    def __init__(
        self, n_samples, keep, width: float = 0.5, names: list[str] | None = None, on: bool = False, raw=None,
        side: Literal["best", "worst"] = "best",
    ):
        super().__init__(n_samples, keep)
        self.options = (width, names, on, raw)
        self.side = side

    def weigh(self, batch):
        return np.ones_like(batch.rewards)
"""


@pytest.fixture
def written(tmp_path):
    def write(text, name="mine.py"):
        (tmp_path / name).write_text(text)
        return f"{tmp_path / name}:Middle"

    return write


def test_a_filter_is_loaded_from_a_file_and_from_a_module(written, tmp_path, monkeypatch):
    path = written(SOUND, "of_a_user.py")
    assert build_filter(path, 4, 2)(np.zeros((1, 4))).tolist() == [[0.25] * 4]
    assert filter_class(path) is filter_class(path), "a second load would make another class"
    monkeypatch.syspath_prepend(tmp_path)
    assert filter_class("of_a_user:Middle").__name__ == "Middle"


def test_options_are_read_by_the_types_that_the_filter_declares(written):
    path = written(SOUND)
    texts = ["width=0.25", "names=a,b", "on=true", "raw=[1, 2]"]
    assert build_filter(path, 4, 2, texts=texts).options == (0.25, ["a", "b"], True, [1, 2])
    assert build_filter(path, 4, 2, texts=["names=None", "raw=word"]).options == (0.5, None, False, "word")
    assert build_filter(path, 4, 2, texts=["side=worst"]).side == "worst"
    assert build_filter("rank_weights", 2, texts=["weights=1,0"]).weights.tolist() == [1.0, 0.0]


@pytest.mark.parametrize(
    "option, words",
    [
        ("width=wide", "option width .* must be float, got 'wide'"),
        ("on=perhaps", "option on .* must be bool, got 'perhaps'"),
        ("side=middle", r"option side .* must be Literal\['best', 'worst'\], got 'middle'"),
        ("width", "written key=value, got 'width'"),
        ("hight=1", "takes no hight; it takes width, names, on, raw, side"),
    ],
)
def test_a_bad_option_gets_one_sentence(written, option, words):
    with pytest.raises(ValueError, match=words) as error:
        build_filter(written(SOUND), 4, 2, texts=[option])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "text, words",
    [
        ("class Middle(:\n", "cannot be imported (SyntaxError: "),
        ("raise OSError()\n", "cannot be imported (OSError): fix the error"),
        ("", "found nothing of that name"),
        ("class Middle: pass\n", "must be a subclass of openrlhf_pf.SampleFilter, found another class"),
        (SOUND.replace("def weigh", "def wiegh"), "has no weigh: write weigh(self, batch)"),
        (SOUND.replace("weigh(self, batch)", "weigh(self, rewards, lengths)"), "weigh takes (self, rewards, lengths)"),
        (
            SOUND.replace("self, n_samples, keep, width", "self, width"),
            "__init__ takes (self, width, names, on, raw, side), but must",
        ),
        (SOUND.replace('"group"', '"prompt"'), "has the scope 'prompt': set it to 'group' or 'batch'"),
    ],
)
def test_a_file_that_cannot_work_gets_one_sentence(written, text, words):
    with pytest.raises(ValueError) as error:
        build_filter(written(text), 4, 2)
    assert words in str(error.value) and "\n" not in str(error.value)


def test_types_that_only_a_type_checker_knows_are_no_obstacle(written):
    text = "from __future__ import annotations\n" + SOUND.replace("width: float", "width: Unknown")
    assert build_filter(written(text, "annotated.py"), 4, 2, texts=["width=0.5"]).options[0] == 0.5


@pytest.mark.parametrize(
    "path, words",
    [
        ("absent.py:Middle", "absent.py cannot be imported (FileNotFoundError: "),
        ("no.such.package:Middle", "no.such.package cannot be imported (ModuleNotFoundError: "),
        ("mine.py:", "does not name a class: write package.module:Class or path/to/file.py:Class"),
        (":Middle", "does not name a class"),
    ],
)
def test_a_path_that_leads_nowhere_gets_one_sentence(path, words):
    with pytest.raises(ValueError) as error:
        build_filter(path, 4, 2)
    assert words in str(error.value) and "\n" not in str(error.value)
