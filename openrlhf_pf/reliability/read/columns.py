"""Decide what a file's columns mean: by our names, by ``--columns``, or by presets of known files.

Where the presets come from:

- verl's ``trainer.rollout_data_dir`` (``_dump_generations`` in verl/trainer/ppo/ray_trainer.py): ``score`` is what
  trains; of what the reward function returned with it, ``acc`` is the true score (verl/workers/reward_manager).
- OpenRLHF's ``openrlhf.cli.batch_inference --eval_task rm``, until 0.9.5.
- RewardBench 2's ``eval-set-scores`` (scripts/run_v2.py of allenai/reward-bench): ``scores`` lists of the rewards of
  all completions, the ``num_correct`` right ones first.
- Files of best-of-N, a row a prompt: lists (1231czx/orm_2e6_bz128_head_test_gsm8k on the Hugging Face hub), or
  numbered columns, ``reward_1`` to ``reward_32``.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches

import pyarrow as pa

from openrlhf_pf.registry import did_you_mean

#: Columns of a rollout log that are read, and their other names in files.
COLUMNS = {
    "prompt_id": ("prompt_id", "prompt"),
    "reward": ("reward",),
    "score": ("score",),
    "checkpoint": ("checkpoint",),
    "step": ("step",),
    "group": ("group",),
    "length": ("response_tokens", "response_length", "length"),
    "model_rewards": ("model_rewards",),
    "reward_again": ("reward_again", "second_reward"),
    "subset": ("subset", "domain", "category"),
    "chosen_reward": ("chosen_reward", "chosen_score", "reward_chosen", "score_chosen", "scores_chosen"),
    "rejected_reward": ("rejected_reward", "rejected_score", "reward_rejected", "score_rejected", "scores_rejected"),
}
#: Rewards of the two sides of preference pairs, which need no true score.
PAIR = ("chosen_reward", "rejected_reward")
NEEDED = ("prompt_id", "reward", "score")
#: Names that suggest a meaning, offered in messages and never assumed: ``score`` is the reward in some files.
SUGGESTED = {
    "prompt_id": "id uid idx index prompt_idx question_id problem_id task_id instance_id qid question problem "
    "input query",
    "reward": "rm_score rm_scores reward_score rm_reward rewards scores score predicted_reward rm logit",
    "score": "acc accuracy correct is_correct correctness label labels passed pass_rate success verified true_score "
    "gold gold_score gold_reward scores",
}
#: Parts of names that suggest a meaning.
PARTS = {"prompt_id": ("prompt",), "reward": ("reward",), "score": ("accura", "correct", "passed", "success")}
#: Lists of rewards, and of truths, in files of best-of-N.
REWARD_LISTS = ("rewards", "scores", "score_*", "reward_*", "rm_scores", "rm_score_*")
TRUTHS = ("correct", "is_correct", "label", "acc", "accuracy")
TRUTH_LISTS = (*TRUTHS, *(f"{name}_*" for name in TRUTHS), "labels", "accs", "correctness", "passed")
MOST_NAMES = 24


@dataclass(frozen=True)
class Preset:
    """A known kind of file: ``columns`` maps our names to the file's, where the file has them."""

    name: str
    needs: tuple[str, ...]
    columns: dict[str, str]
    without: tuple[str, ...] = ()
    right_first: bool = False


PRESETS = (
    Preset(
        "a validation dump of verl",
        ("input", "output", "reward", "acc", "step"),
        {"prompt_id": "input", "reward": "reward", "score": "acc"},
    ),
    Preset(
        "a rollout dump of verl, whose score is the reward",
        ("input", "output", "score", "step"),
        {"prompt_id": "input", "reward": "score", "score": "acc"},
        without=("reward",),
    ),
    Preset(
        "rewards by OpenRLHF's batch_inference",
        ("input", "output", "reward"),
        {"prompt_id": "input"},
        without=("gts",),
    ),
    Preset(
        "results of RewardBench 2, the first num_correct responses right",
        ("id", "scores", "num_correct"),
        {"prompt_id": "id", "reward": "scores", "score": "num_correct"},
        right_first=True,
    ),
)


@dataclass
class Plan:
    """How to read a file.

    Attributes:
        columns: our name to the file's; several names for numbered columns. Without ``prompt_id``, a row is a prompt.
        line: a sentence about it, or "".
        right_first: ``score`` counts the right responses, which come first in the lists of a row.
        named: our names that the user gave columns for.
        others: the file's further columns of numbers, any of which might be the true score.
    """

    columns: dict[str, str | tuple[str, ...]]
    line: str = ""
    right_first: bool = False
    named: frozenset[str] = field(default_factory=frozenset)
    others: tuple[str, ...] = ()


def parse_columns(text: str) -> dict[str, str]:
    """Parse ``reward=rm_score,score=acc`` into our names to the file's.

    Raises:
        ValueError: one of ours is unknown or there twice, or one of the file's has two meanings.
    """
    found: dict[str, str] = {}
    for pair in text.split(","):
        ours, equals, theirs = (part.strip() for part in pair.partition("="))
        if not (ours and equals and theirs):
            raise ValueError(f"--columns needs OURS=YOURS, got {pair!r}: give reward=rm_score,score=acc for instance.")
        if ours not in COLUMNS:
            raise ValueError(f"--columns knows no {ours!r}: choose from {', '.join(COLUMNS)}.")
        if ours in found:
            raise ValueError(f"--columns names {ours} twice: {found[ours]!r} and {theirs!r}; leave out one.")
        if theirs in found.values():
            raise ValueError(f"--columns gives {theirs!r} two meanings: a column can have one.")
        found[ours] = theirs
    return found


def plan_columns(schema: pa.Schema, named: Mapping[str, str], path: str, rows: int) -> Plan:
    """Decide what each column of a file means, where ``named`` says what the user named.

    Raises:
        ValueError: a column is missing or ambiguous.
    """
    numbered = _numbered(schema)
    chosen = {ours: _named(schema, numbered, ours, theirs, path) for ours, theirs in named.items()}
    # A column that the user named has no other meaning.
    there = [name for name in (*schema.names, *numbered) if name not in chosen.values()]
    known = {ours: next((n for n in names if n in there), None) for ours, names in COLUMNS.items()}
    for ours in ("reward", "score"):
        if known[ours] and pa.types.is_struct(_type(schema, known[ours])):
            known[ours] = None  # an object: one of its fields is named with --columns
        if known[ours] is None and f"{ours}_*" in there:
            known[ours] = f"{ours}_*"
    found, how, right_first = {**known, **chosen}, "", False
    if any(found[name] is None for name in NEEDED):
        how, preset, right_first = _preset(schema, [*schema.names, *numbered])
        found = {**known, **{ours: name if name in there else None for ours, name in preset.items()}, **chosen}
    found = {ours: name for ours, name in found.items() if name}
    if set(PAIR) <= found.keys() and "reward" not in named and not {"reward", "score"} <= found.keys():
        columns = {ours: numbered.get(name, name) for ours, name in found.items() if ours in (*PAIR, "subset")}
        columns |= {"prompt_id": found["prompt_id"]} if "prompt_id" in found else {}
        chosen, rejected = (found[name] for name in PAIR)
        return Plan(columns, f"{path} is read as preference pairs: {chosen} should be above {rejected}.")
    for ours in set(PAIR) & found.keys():
        del found[ours]
    for name in found.values():
        if schema.names.count(name) > 1:
            raise ValueError(f"{path} has two columns called {name}: rename one of them.")
    nameless = "prompt_id" not in found and {"reward", "score"} <= found.keys() and _is_list(schema, found["reward"])
    missing = [name for name in NEEDED if name not in found and not (name == "prompt_id" and nameless)]
    if missing:
        raise ValueError(_missing(schema, numbered, found, missing, path, rows, how))
    line = ""
    if how:
        line = f"{path} is read as {how}: " + ", ".join(f"{n} = {found[n]}" for n in NEEDED if n in found)
    if nameless:
        line = (line or f"{path} has no prompt_id") + "; each row is a prompt of its own"
    columns = {ours: numbered.get(name, name) for ours, name in found.items()}
    others = tuple(name for name in list_numeric(schema) if name not in found.values())
    return Plan(columns, line and f"{line}.", right_first and "score" not in named, frozenset(named), others)


def _preset(schema: pa.Schema, there: Sequence[str]) -> tuple[str, dict[str, str], bool]:
    for preset in PRESETS:
        if set(preset.needs) <= set(there) and not set(preset.without) & set(there):
            return preset.name, preset.columns, preset.right_first
    rewards = [name for name in REWARD_LISTS if name in there and _is_list(schema, name)]
    truths = [name for name in TRUTH_LISTS if name in there and _is_list(schema, name)]
    if sorted(rewards) == ["rewards", "scores"] and not truths:
        return "rows of lists", {"reward": "rewards", "score": "scores"}, False
    if len(rewards) == len(truths) == 1:
        return "best of N", {"reward": rewards[0], "score": truths[0]}, False
    return "", {}, False


def _is_list(schema: pa.Schema, name: str) -> bool:
    """Return whether a column has one value per response in each row, by its type; a CSV's lists are text."""
    kind = _type(schema, name)
    if name.endswith("_*") or (kind is not None and is_list(kind)):
        return True
    if kind is None:
        return False
    text = pa.types.is_string(kind) and not any(is_list(other) for other in schema.types)
    return text and name in (*REWARD_LISTS, *TRUTH_LISTS)


def is_list(kind: pa.DataType) -> bool:
    """Return whether a type is one of Arrow's lists; a map is none."""
    return pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)


def list_numeric(schema: pa.Schema) -> list[str]:
    """Return the columns of numbers, also of lists of numbers and within objects (``extra.acc``)."""

    def names_in(name: str, kind: pa.DataType) -> list[str]:
        if pa.types.is_struct(kind):
            return [n for inner in kind for n in names_in(f"{name}.{inner.name}", inner.type)]
        while is_list(kind):
            kind = kind.value_type
        number = pa.types.is_boolean(kind) or pa.types.is_integer(kind) or pa.types.is_floating(kind)
        return [name] if number else []

    return [n for name, kind in zip(schema.names, schema.types) for n in names_in(name, kind)]


def _type(schema: pa.Schema, name: str) -> pa.DataType | None:
    """Return the type of a column or of a field by its dotted name; None where there is none."""
    if name in schema.names:
        return schema.types[schema.names.index(name)]
    top, _, rest = name.partition(".")
    kind = schema.types[schema.names.index(top)] if top in schema.names else None
    for part in rest.split(".") if kind is not None else ():
        if not pa.types.is_struct(kind) or kind.get_field_index(part) < 0:
            return None
        kind = kind.field(part).type
    return kind


def _numbered(schema: pa.Schema) -> dict[str, tuple[str, ...]]:
    """Return ``score_*`` to the columns ``score_1``, ``score_2``, ..., which start at 0 or 1 and have no gap."""
    stems: dict[str, dict[int, str]] = {}
    for name in schema.names:
        if match := re.fullmatch(r"(.*[^_\d])_?(\d{1,4})", name):
            stems.setdefault(match[1], {})[int(match[2])] = name
    return {
        f"{stem}_*": tuple(columns[i] for i in sorted(columns))
        for stem, columns in stems.items()
        if len(columns) > 1 and min(columns) <= 1 and max(columns) - min(columns) == len(columns) - 1
    }


def _named(schema: pa.Schema, numbered: Mapping, ours: str, theirs: str, path: str) -> str:
    if theirs in numbered or _type(schema, theirs) is not None:
        return theirs
    names = [*schema.names, *(name for name in list_numeric(schema) if "." in name)]
    raise ValueError(
        f"{path} has no column {theirs!r} (--columns {ours}={theirs}), it has {listed(names, numbered)}"
        + f": {did_you_mean(theirs, names) or 'choose one of these.'}"
    )


def listed(names: Iterable[str], numbered: Mapping[str, tuple[str, ...]] | None = None) -> str:
    """Return a file's columns as text: numbered ones as a range, and ``MOST_NAMES`` at most."""
    numbered = {name: ends for name, ends in (numbered or {}).items() if len(ends) > 2}
    inner = {name for columns in numbered.values() for name in columns[1:]}
    first = {columns[0]: f"{columns[0]} to {columns[-1]}" for columns in numbered.values()}
    shown = [first.get(name, name) for name in names if name not in inner]
    more = len(shown) - MOST_NAMES
    return ", ".join(shown[:MOST_NAMES]) + (f" and {more} more" if more > 0 else "") if shown else "none"


def _candidates(schema: pa.Schema, numbered: Mapping, ours: str, taken: Iterable[str]) -> list[str]:
    """Return the file's columns that may be one of ours, the likeliest first."""
    nested = [name for name in list_numeric(schema) if "." in name]
    names = [name for name in [*numbered, *schema.names, *nested] if name not in taken]
    names = [name for name in names if not any(name in columns for columns in numbered.values())]
    if ours != "prompt_id":  # texts and objects are no numbers
        kinds = {name: None if name in numbered else _type(schema, name) for name in names}
        text = [n for n, kind in kinds.items() if kind and (pa.types.is_string(kind) or pa.types.is_struct(kind))]
        names = [n for n in names if n not in text or _is_list(schema, n)]
    plain = {name.removesuffix("_*").rpartition(".")[2].lower(): name for name in reversed(names)}
    synonyms = [plain[word] for word in SUGGESTED[ours].split() if word in plain]
    close = [plain[word] for word in get_close_matches(ours, plain, 3, 0.75)]
    within = [name for name in plain.values() if any(part in name.lower() for part in PARTS[ours])]
    found = dict.fromkeys([*close, *synonyms, *within])
    # accuracy_reward is a reward by its name, and a true score.
    return sorted(found, key=lambda name: ours == "reward" and any(part in name.lower() for part in PARTS["score"]))


def _missing(
    schema: pa.Schema, numbered: Mapping, found: Mapping, missing: list[str], path: str, rows: int, how: str
) -> str:
    taken, guesses, flags, reward = set(found.values()), [], [], found.get("reward")
    for ours in missing:
        names = _candidates(schema, numbered, ours, taken)
        if ours == "score" and reward:  # one score per row does not score each response of a list
            names = [name for name in names if _is_list(schema, name) == _is_list(schema, reward)]
        elif ours == "reward" and names:
            reward = names[0]
        if names:
            guesses.append(f"{' or '.join(map(repr, names[:3]))} {'' if guesses else 'is '}the {ours}")
        taken |= set(names[:1])
        flags.append(f"{ours}={names[0] if names else 'NAME'}")
    guess = f"if {join_words(guesses)}, " if guesses else ""
    asked = ""
    if "reward" in missing and found.get("score") == "score":
        asked = "; is 'score' your reward? Then give --columns reward=score,score=NAME with the true score"
    numbers = [name for name in list_numeric(schema) if name not in found.values()]
    numbers = [name for name in numbers if not any(name in columns for columns in numbered.values())]
    hidden = any("." in name for name in numbers) or len(schema.names) > MOST_NAMES
    offered = f"; columns of numbers are {', '.join(numbers)}" if hidden else ""
    return (
        f"{path} has no column for {join_words(missing)} ({rows:,} row{'s' * (rows != 1)}), it has "
        + f"{listed(schema.names, numbered)}: "
        + (f"it looks like {how}; " if how else "")
        + f"a sample needs {', '.join(NEEDED)}, the score being the true one, of unit tests for instance; "
        + f"{guess}give --columns {','.join(flags)}{offered}{asked}"
    )


def join_words(parts: Sequence[object]) -> str:
    """Return a, b and c."""
    texts = [str(part) for part in parts]
    return " and ".join(filter(None, [", ".join(texts[:-1]), *texts[-1:]]))
