"""Weights of old pairs for a new policy: closed forms, log-probabilities of a model, the command, and the loss."""

import json
import math
import re

import numpy as np
import pytest
import torch
from tiny_model import write_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from openrlhf_pf.cli.weigh_pairs import main
from openrlhf_pf.preferences.weights import log_probabilities, relative_log_ratio, weights_of


def test_the_relative_ratio_is_bounded_and_the_plain_one_at_alpha_0():
    log_ratio = np.array([-50.0, -1.0, 0.0, 1.0, 50.0, 900.0])
    assert relative_log_ratio(log_ratio, 0.0) is log_ratio
    found = relative_log_ratio(log_ratio, 0.1)
    ratio = np.exp(log_ratio[:4])
    assert np.exp(found[:4]) == pytest.approx(ratio / (0.1 * ratio + 0.9))
    assert found[4:] == pytest.approx(math.log(10)) and abs(found[2]) < 1e-15


def test_weights_have_mean_1_and_the_effective_share_that_is_asked_for():
    log_ratios = np.random.default_rng(0).normal(0, 4, 1000)
    assert np.array_equal(weights_of(log_ratios, scale=0.0).weights, np.ones(1000))
    found = weights_of(log_ratios, 0.5)
    assert found.weights.mean() == pytest.approx(1.0) and found.effective == pytest.approx(0.5, abs=1e-6)
    # Of log-normal weights exp(x), x ~ N(0, s²), the effective share is exp(-s²): s = 4 scale.
    assert found.scale == pytest.approx(math.sqrt(math.log(2)) / 4, rel=0.1)
    mild = weights_of(0.1 * log_ratios, 0.5)
    assert mild.scale == 1.0 and mild.effective > 0.5
    assert (np.argsort(found.weights) == np.argsort(log_ratios)).all()


def test_weighted_pairs_speak_of_the_new_policy():
    """Two responses: the old policy writes the second in one of ten, the new one in nine of ten."""
    rng = np.random.default_rng(0)
    old, new = np.array([0.9, 0.1]), np.array([0.1, 0.9])
    pairs = rng.choice(2, size=(200_000, 2), p=old)
    log_ratios = np.log(new / old)[pairs].sum(axis=1)
    found = weights_of(log_ratios, scale=1.0)
    share = (found.weights[:, None] * (pairs == 1)).mean(axis=0)
    assert share == pytest.approx([0.9, 0.9], abs=0.02)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return [write_model(folder / name, seed=seed) for seed, name in enumerate(("new", "old"))]


TEXTS = [("add 1 + 1?", " 2"), ("add 10 + 10?", " twenty, I think"), ("", "yes"), ("why?", "")]


def test_log_probabilities_are_those_of_the_response_and_the_end(folders):
    tokenizer = AutoTokenizer.from_pretrained(folders[0])
    model = AutoModelForCausalLM.from_pretrained(folders[0], dtype=torch.float32).eval()
    expected = []
    for prompt, response in TEXTS[:2]:
        begin = tokenizer(prompt, add_special_tokens=False)["input_ids"]
        row = begin + tokenizer(response, add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id]
        with torch.inference_mode():
            logits = model(torch.tensor([row])).logits[0].log_softmax(dim=-1)
        expected.append(sum(float(logits[place - 1, row[place]]) for place in range(len(begin), len(row))))
    for batch in (1, 3):
        found = list(log_probabilities(folders[0], TEXTS, 64, batch))
        assert found[:2] == pytest.approx(expected, abs=1e-3) and len(found) == 4 and max(found) < 0
    cut = list(log_probabilities(folders[0], TEXTS[1:2], len(begin) + 2))
    assert expected[1] < cut[0] < 0


def pairs_file(path, count=8, **more):
    rows = [{"prompt": f"add {n} + 1?", "chosen": f" {n + 1}", "rejected": f" {n}", **more} for n in range(count)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def ask(pairs, policy, reference, output, *more):
    flags = {"--policy": policy, "--reference": reference, "--output": output}
    return main([str(pairs), *(str(word) for flag in flags.items() for word in flag), *more])


def test_the_command_writes_a_weight_for_each_pair(folders, tmp_path, capsys):
    pairs, output = pairs_file(tmp_path / "D.jsonl", kind="human"), tmp_path / "W.jsonl"
    assert ask(pairs, *folders, output, "--effective", "0.9") == 0
    said = capsys.readouterr().out
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    weights = np.array([row["margin"] for row in rows])
    assert weights.mean() == pytest.approx(1.0) and weights.std() > 0
    assert 1 / (weights**2).mean() >= 0.9 - 1e-9 and "8 pairs are in" in said
    assert [{k: v for k, v in row.items() if k != "margin"} for row in rows] == [
        json.loads(line) for line in pairs.read_text().splitlines()
    ]
    assert ask(pairs, folders[0], folders[0], output) == 0
    assert all(json.loads(line)["margin"] == 1.0 for line in output.read_text().splitlines())


def test_lines_end_at_newlines_only(folders, tmp_path):
    pairs, output = pairs_file(tmp_path / "D.jsonl"), tmp_path / "W.jsonl"
    more = {"prompt": "a\u2028b", "chosen": "c\x85d\u2029", "rejected": "e"}
    pairs.write_bytes(b"\xef\xbb\xbf" + pairs.read_bytes() + json.dumps(more, ensure_ascii=False).encode() + b"\r\n\n")
    assert ask(pairs, *folders, output) == 0
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    assert len(rows) == 9 and {name: rows[-1][name] for name in more} == more


@pytest.mark.parametrize(
    "content, more, sentence",
    [
        ("", (), "has no pairs: give those that the reward model was trained on"),
        ("{", (), "is no JSONL"),
        ("[1, 2]", (), "line 1 of .* is no JSON object"),
        ('{"prompt": "a", "chosen": "b"}', (), "line 1 of .* has no text in rejected"),
        ('{"prompt": "a", "chosen": "b", "rejected": "c", "margin": 1}', (), "has a margin already"),
        (None, ("--relative", "1"), "--relative must be at least 0 and below 1, got 1.0"),
        (None, ("--scale", "1", "--effective", "0.5"), "both set the exponent"),
        (None, ("--scale", "-1"), "--scale must lie between 0 and 1, got -1.0"),
        (None, ("--effective", "1"), "--effective must lie between 0 and 1, got 1.0"),
        (None, ("--batch", "0"), "--batch must be 1 or more, got 0"),
        (None, ("--max_len", "4"), "leaves no room for its response: raise it"),
    ],
)
def test_bad_input_ends_in_a_sentence_and_writes_nothing(folders, tmp_path, capsys, content, more, sentence):
    pairs, output = tmp_path / "D.jsonl", tmp_path / "W.jsonl"
    pairs_file(pairs) if content is None else pairs.write_text(content)
    assert ask(pairs, *folders, output, *more) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("weigh_pairs: ")
    assert re.search(sentence, said), said
    assert not output.exists()


def test_folders_that_are_no_policies(folders, tmp_path, capsys):
    pairs = pairs_file(tmp_path / "D.jsonl")
    assert ask(pairs, tmp_path / "absent", folders[1], tmp_path / "W.jsonl") == 2
    assert "is no checkpoint: give a folder with config.json" in capsys.readouterr().err
    assert ask(pairs, *folders, tmp_path / "W.txt") == 2
    assert "must be the name of a file that ends in .jsonl" in capsys.readouterr().err


def test_the_loss_weighs_while_it_trains_only():
    pytest.importorskip("openrlhf")
    from openrlhf.models.loss import PairWiseLoss

    from openrlhf_pf.training.policy_weights import WeightedPairWiseLoss

    chosen = torch.tensor([0.3, -1.0, 2.0], requires_grad=True)
    rejected, weight = torch.tensor([0.1, 0.5, -0.4]), torch.tensor([0.0, 1.0, 2.0])
    ours, theirs = WeightedPairWiseLoss(), PairWiseLoss()
    assert torch.equal(ours(chosen, rejected, torch.ones(3)), theirs(chosen, rejected))
    (gradient,) = torch.autograd.grad(ours(chosen, rejected, weight), chosen)
    (plain,) = torch.autograd.grad(theirs(chosen, rejected), chosen)
    assert gradient.tolist() == pytest.approx((plain * weight).tolist())
    with torch.no_grad():
        assert torch.equal(ours(chosen, rejected, weight), theirs(chosen, rejected))
