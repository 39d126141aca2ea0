"""Clusters: equal texts, programs that behave alike (in the real sandbox), mutual entailment, and a user's own."""

import json

import pytest
from preference_samples import prompt_of

from openrlhf_pf.code_reward import Pool
from openrlhf_pf.rlp import build_clustering
from openrlhf_pf.rlp.clusters import ALONE, Behaviour, ClusterFile, Clustering
from openrlhf_pf.rlp.entailment import Entailment

CALLS = json.dumps({"entry_point": "f", "inputs": [[1], [2], [3]], "outputs": [1, 4, 9]})


def test_exact_texts_but_for_blanks_at_the_ends():
    prompt = prompt_of(["a", " a\n", "b", "A", "a b", "a  b"])
    assert list(build_clustering("exact").cluster([prompt])) == [[0, 0, 1, 2, 3, 4]]


@pytest.mark.parametrize(
    "name, words",
    [
        (
            "behavior",
            r"none of exact, behaviour, entailment; did you mean 'behaviour'\? Or give file.py:function",
        ),
        ("absent.py:f", "absent.py:f gives no f .FileNotFoundError"),
        ("entailment", "needs --entailment_model, the folder of an NLI checkpoint"),
    ],
)
def test_what_is_no_clustering(name, words):
    with pytest.raises(ValueError, match=words) as error:
        build_clustering(name)
    assert "\n" not in str(error.value)


# ── Programs ──


@pytest.fixture(scope="module")
def pool():
    with Pool(2, packages=()) as pool:
        yield pool


def test_programs_that_answer_alike(pool):
    answers = [
        "def f(n):\n    return n * n",
        "Here it is:\n```python\ndef f(n):\n    return n ** 2.0\n```",
        "def f(n):\n    return n + n",
        "def f(n):\n    return n.nothing",
        "def f(n):\n    return 1 // 0",
        "no program at all",
        "def f(n):\n    return n + n",
    ]
    behaviour = Behaviour(pool)
    behaviour.check([prompt_of(answers, label=CALLS)])
    found = list(behaviour.cluster([prompt_of(answers, label=CALLS), prompt_of(answers[2:4], label=CALLS)]))
    assert found == [[0, 0, 1, ALONE, ALONE, ALONE, 1], [0, ALONE]]


def test_many_prompts_come_in_their_order(pool):
    prompts = [
        prompt_of(["def f(n):\n    return 1"] * n + ["def f(n):\n    return 2"] * (5 - n), label=CALLS)
        for n in range(5)
    ]
    prompts *= 20  # more than are handed to the sandbox at a time
    assert [groups.count(0) for groups in Behaviour(pool).cluster(prompts)] == [5, 1, 2, 3, 4] * 20


def test_labels_without_tests_are_refused_before_any_program_runs():
    labels = [None, "a reference answer", "{}", CALLS]
    with pytest.raises(
        ValueError, match=r"needs tests in every label, and 3 of 4 have none; .*it is missing, and comes with --data"
    ) as e:
        Behaviour(None).check([prompt_of(["a", "b"], label=label, text=str(label)) for label in labels])
    assert "\n" not in str(e.value)


def test_a_test_at_fault_leaves_the_prompt_out_and_says_so(pool):
    nothing = json.dumps({"entry_point": "f", "test": "def check(candidate):\n    assert 1 == 1\n"})
    behaviour = Behaviour(pool)
    assert list(behaviour.cluster([prompt_of(["def f(n):\n    return n", "x"], label=nothing)])) == [None]
    assert "1 prompts could not be clustered; the last reason: the label's test is at fault" in behaviour.notes[0]


# ── Entailment ──

NLI = {"0": "CONTRADICTION", "1": "neutral", "2": "Entailment"}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A tiny random BERT with NLI's classes and one token a word."""
    return write_checkpoint(tmp_path_factory.mktemp("nli"), NLI)


def write_checkpoint(folder, classes):
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *"which city is it Paris Rome it's London the capital".split()]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(dict.fromkeys(words))}, "[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        "[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1", [("[CLS]", 2), ("[SEP]", 3)]
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    )
    fast.save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(words), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        max_position_embeddings=24, id2label={int(k): v for k, v in classes.items()},
        label2id={v: int(k) for k, v in classes.items()}, initializer_range=0.7,
    )  # fmt: skip
    BertForSequenceClassification(config).save_pretrained(folder)
    return folder


def planted(checkpoint, entails, batch=4):
    """The clustering with logits that say so: ``entails(premise, hypothesis)``."""
    import torch

    made = Entailment(str(checkpoint), batch)
    made.asked = []

    def logits(pairs):
        made.asked.append(list(pairs))
        return torch.tensor([[0.0, 1.0, 2.0] if entails(*pair) else [1.0, 2.0, 0.0] for pair in pairs])

    made.logits = logits
    return made


def test_equal_is_what_entails_in_both_directions(checkpoint):
    """A, B and C mean one thing; D is entailed by all and entails none."""
    made = planted(checkpoint, lambda one, other: other[-1] == "D" or (one[-1] in "ABC" and other[-1] in "ABC"))
    prompts = [prompt_of(list("ADBCA"), text="which"), prompt_of(list("DD"), text="which"), prompt_of(list("DA"))]
    assert list(made.cluster(prompts)) == [[0, 1, 0, 0, 0], [0, 0], [0, 1]]
    assert made.asked[0][:2] == [("which A", "which D"), ("which D", "which A")], "with the question in front"
    assert max(map(len, made.asked)) == 4 and sum(map(len, made.asked)) == 6 + 2, "equal texts are asked for once"


def test_answers_are_compared_with_the_first_of_a_group_only(checkpoint):
    """A equals B, B equals C, A does not equal C: not transitive, so the order decides (Kuhn et al., Algorithm 1)."""
    equal = [{"A", "B"}, {"B", "C"}]
    made = planted(checkpoint, lambda one, other: {one[-1], other[-1]} in equal)
    assert list(made.cluster([prompt_of(list("ABC"))])) == [[0, 0, 1]]
    assert list(made.cluster([prompt_of(list("BAC"))])) == [[0, 0, 0]]


def test_a_checkpoint_gives_the_same_groups_in_any_batch(checkpoint):
    answers = ["Paris", "Rome", "it is Paris", "London", "the capital", "it's Rome", "Paris"]
    prompts = [prompt_of(answers[n:] + answers[:n], text="which city is it") for n in range(5)]
    found = {batch: list(Entailment(str(checkpoint), batch).cluster(prompts)) for batch in (1, 3, 64)}
    assert found[1] == found[3] == found[64]
    assert all(
        g[p.responses.index("Paris")] == g[len(g) - 1 - p.responses[::-1].index("Paris")]
        for p, g in zip(prompts, found[1])
    )
    sizes = [len(set(groups)) for groups in found[1]]
    assert min(sizes) < 6 and max(sizes) > 1, "some of the six different answers are one, and not all"


def test_too_long_pairs_are_cut_and_counted(checkpoint):
    made = Entailment(str(checkpoint))
    list(made.cluster([prompt_of(["Paris " * 30, "Rome " * 30])]))
    assert made.notes == ["2 pairs of responses are longer than the 24 tokens of the NLI checkpoint"]


def test_a_checkpoint_without_nlis_classes_is_refused(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"id2label": {"0": "POSITIVE", "1": "NEGATIVE"}}))
    with pytest.raises(ValueError, match="needs one class of the name entailment, and has POSITIVE, NEGATIVE"):
        Entailment(str(tmp_path))
    (tmp_path / "config.json").write_text(json.dumps({"id2label": {"0": "entailment", "1": "not_entailment"}}))
    with pytest.raises(ValueError, match="one class of the name contradiction"):
        Entailment(str(tmp_path))
    with pytest.raises(ValueError, match="is no checkpoint: give a folder with config.json"):
        Entailment(str(tmp_path / "absent"))
    with pytest.raises(ValueError, match="--entailment_batch must be 1 or more, got 0"):
        (tmp_path / "config.json").write_text(json.dumps({"id2label": NLI}))
        Entailment(str(tmp_path), 0)


# ── A user's own ──


@pytest.fixture
def write(tmp_path):
    def write(body):
        (tmp_path / "mine.py").write_text(f"def same(prompt, responses, label):\n    {body}\nother = 3\n")
        return f"{tmp_path / 'mine.py'}:same"

    return write


def test_a_function_of_the_users(write):
    name = write("return [len(text) if (prompt, label) == ('x', 'l') else -1 for text in responses]")
    assert list(build_clustering(name).cluster([prompt_of(["a", "b", "cc"], label="l")])) == [[1, 1, 2]]


@pytest.mark.parametrize(
    "body, words",
    [
        ("return [0]", r"called with the prompt 'x', returned \[0\]: it must return 3 whole numbers"),
        ("return [0, 1, 'a']", "it must return 3 whole numbers"),
        ("return 1 // 0", "raised ZeroDivisionError: integer division"),
        ("return None", "raised TypeError"),
        ("raise SystemExit(3)", "raised SystemExit: 3"),
    ],
)
def test_a_function_that_is_wrong(write, body, words):
    with pytest.raises(ValueError, match=words) as error:
        list(build_clustering(write(body)).cluster([prompt_of(["a", "b", "c"])]))
    assert "\n" not in str(error.value)


def test_a_name_that_is_no_function(write):
    with pytest.raises(ValueError, match="TypeError: other is no function"):
        build_clustering(write("pass").replace(":same", ":other"))


# ── What is found already ──


class Counting(Clustering):
    """Groups by the first letter; remembers what it was asked, and fails at a prompt."""

    settings = "counting"

    def __init__(self, fails_at=None, unknown=()):
        super().__init__()
        self.asked, self.fails_at, self.unknown = [], fails_at, unknown

    def groups_of(self, prompt):
        if prompt.text == self.fails_at:
            raise KeyboardInterrupt
        self.asked.append(prompt.text)
        return None if prompt.text in self.unknown else [ord(text[0]) for text in prompt.responses]


def test_a_run_goes_on_where_it_was_ended(tmp_path):
    prompts = [prompt_of(["a", "b"], text=str(n)) for n in range(6)]
    with pytest.raises(KeyboardInterrupt):
        list(ClusterFile(tmp_path / "log", Counting("3")).cluster(prompts))
    with (tmp_path / "log").open("a") as file:
        file.write('{"prompt": "')  # a line that was not finished
    again = Counting()
    progress = ClusterFile(tmp_path / "log", again)
    assert progress.count_known(prompts) == 3
    assert list(progress.cluster(prompts)) == [[97, 98]] * 6 and again.asked == ["3", "4", "5"]
    third = Counting()
    assert list(ClusterFile(tmp_path / "log", third).cluster(prompts[::-1])) == [[97, 98]] * 6 and third.asked == []


def test_other_settings_and_other_answers_are_found_again(tmp_path):
    list(ClusterFile(tmp_path / "log", Counting()).cluster([prompt_of(["a", "b"])]))
    other = Counting()
    other.settings = "other"
    list(ClusterFile(tmp_path / "log", other).cluster([prompt_of(["a", "b"])]))
    changed = Counting()
    list(ClusterFile(tmp_path / "log", changed).cluster([prompt_of(["a", "c"]), prompt_of(["a", "b"], label="l")]))
    assert (other.asked, changed.asked) == (["x"], ["x", "x"])


def test_what_could_not_be_found_out_is_tried_again(tmp_path):
    prompts = [prompt_of(["a", "b"], text=text) for text in "xyx"]
    assert list(ClusterFile(tmp_path / "log", Counting(unknown="x")).cluster(prompts)) == [None, [97, 98], None]
    again = Counting()
    assert list(ClusterFile(tmp_path / "log", again).cluster(prompts)) == [[97, 98]] * 3 and again.asked == ["x"]
