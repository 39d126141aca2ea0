"""Distance from the first policy: the estimate itself, and the course of an arm. No training."""

import json
from xml.etree import ElementTree

import numpy as np
import pytest

from examples.micro_code import sampling
from examples.micro_code.config import PRESETS
from examples.studies.micro_code import overoptimisation, study


def test_log_ratios_are_those_of_what_was_written(tmp_path, monkeypatch):
    pytest.importorskip("transformers")
    import torch
    from tiny_model import write_model
    from transformers import AutoModelForCausalLM

    one, other = (write_model(tmp_path / str(seed), seed=seed) for seed in (0, 1))
    prompts = ["add 1 + 1?", "a much longer prompt than the other one is"]
    written = {}
    real = sampling.generate

    def generate(model, tokens, mask, *more):
        written["tokens"] = real(model, tokens, mask, *more)
        written["prompts"], written["mask"] = tokens, mask
        return written["tokens"]

    monkeypatch.setattr(sampling, "generate", generate)
    draw = sampling.Draw(one, prompts, 3, 12, seed=4)
    assert np.abs(sampling._log_ratios(draw, one)).max() == 0
    found = sampling._log_ratios(draw, other)
    assert found.shape == (2, 3)
    end = AutoModelForCausalLM.from_pretrained(one).config.eos_token_id
    for row, got in enumerate(found.ravel()):
        prompt = written["prompts"][row][written["mask"][row].bool()]
        tokens = written["tokens"][row].tolist()
        tokens = tokens[: tokens.index(end) + 1] if end in tokens else tokens
        chances = []
        for path in (one, other):
            model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
            whole = torch.cat([prompt, torch.tensor(tokens)])[None]
            logs = model(whole).logits[0].log_softmax(-1)[len(prompt) - 1 : -1]
            chances.append(float(logs[range(len(tokens)), tokens].sum()))
        assert got == pytest.approx(chances[0] - chances[1], abs=1e-4)


@pytest.fixture
def bases(tmp_path, monkeypatch):
    """Two bases with a cell each, whose policies move further from the first one with every step."""
    found = []
    for seed in (1, 2):
        base = tmp_path / f"b{seed}"
        (base / "data").mkdir(parents=True)
        (base / "data" / "heldout.jsonl").write_text("")
        (base / "study.json").write_text(json.dumps({**PRESETS["study"].as_dict(), "seed": seed}))
        cells = study.Cells(base, tmp_path / "out")
        directory = cells.path("none", 1)
        directory.mkdir(parents=True)
        passed = {"8": 0.5, "16": 0.1 * seed, "4": 0.3, "12": 0.4}  # as a set of steps comes
        np.savez(directory / "scores.npz", **{step: np.full((10, 2), value) for step, value in passed.items()})
        found.append(cells)
    asked = []

    def divergence(draws, reference):
        asked.append([str(draw.model).rpartition("model/")[2] for draw in draws])
        return [np.full((10, 2), float(i)) for i, _ in enumerate(draws)]

    monkeypatch.setattr(overoptimisation, "divergence", divergence)
    return found, asked, tmp_path


def test_a_course_is_measured_once_and_averaged_over_bases(bases):
    cells, asked, _ = bases
    found = overoptimisation.course_over_bases(cells, "none", 1)
    saved = [f"checkpoints/global_step{step}_hf" for step in (4, 8, 12)]
    assert asked == [[*saved, "final"]] * 2
    assert found["step"] == [4, 8, 12, 16] and found["kl"] == [0, 1, 2, 3] and found["best_step"] == [8, 8]
    assert found["pass_at_1"] == pytest.approx([0.3, 0.5, 0.4, 0.15])
    assert found == overoptimisation.course_over_bases(cells, "none", 1) and len(asked) == 2
    assert overoptimisation.course_over_bases(cells, "best_worst", 1) is None, "a cell that is not there"


def test_numbers_and_figure_are_written(bases, capsys):
    _, _, tmp_path = bases
    flags = ["--base", str(tmp_path / "b1"), str(tmp_path / "b2"), "--output", str(tmp_path / "out")]
    flags += ["--json", str(tmp_path / "o.json"), "--figure", str(tmp_path / "o.svg")]
    assert overoptimisation.main(flags) == 0
    assert "given, none (2 bases): pass@1 0.300 at 0.00, 0.500 at 1.00" in capsys.readouterr().out
    assert list(json.loads((tmp_path / "o.json").read_text())) == ["given"]
    assert "reward model: given" in "".join(ElementTree.parse(tmp_path / "o.svg").getroot().itertext())
    assert overoptimisation.main([*flags, "--reward", "exploit"]) == 1
    capsys.readouterr()
    assert overoptimisation.main([*flags, "--arms", "best_wurst"]) == 1
    assert capsys.readouterr().err.startswith("there is no arm 'best_wurst': take one of none, random")
