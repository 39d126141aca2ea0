"""Collecting on the real stack: killed in the middle, started again, every prompt once."""

import json
import time

import pytest
from real_stack import HERE, end
from true_score import ascii_characters

from openrlhf_pf import rollout_log

ENTRY = ("-m", "openrlhf_pf.cli.collect")
pytestmark = pytest.mark.end_to_end


def test_a_killed_collection_goes_on_without_repeating_or_losing_a_prompt(stack, tmp_path):
    """26 prompts x 4 in files of 8; a local reward model, and a reward function's scores as the true ones."""
    folder, output = tmp_path / "run", tmp_path / "run" / "collected"
    flags = (
        f"--collect.output {output} --collect.score {HERE / 'true_score.py'} --collect.checkpoint sft "
        "--collect.score_twice "
        f"--reward.model_name_or_path {stack.reward} --rollout.temperature 0.7"
    )
    process = stack.start(folder, 26, flags, ENTRY)
    try:
        deadline = time.monotonic() + 600
        while not list(output.glob("part-*.parquet")):
            assert process.poll() is None and time.monotonic() < deadline, (folder / "log.txt").read_text()[-3000:]
            time.sleep(0.1)
    finally:
        end(process)
    there = {file.name: file.stat().st_mtime_ns for file in output.glob("part-*.parquet")}
    assert 1 <= len(there) <= 4

    run = stack.train(folder, 26, flags, ENTRY)
    assert f"26 prompts x 4 responses in 4 files, {len(there)} there" in run.log and "collect: done" in run.log
    assert {name: (output / name).stat().st_mtime_ns for name in there} == there, "a finished file was written again"
    # The prompt 'add 3' breaks the reward function: its four samples have no true score, and are kept.
    if not {"part-000001.parquet"} <= there.keys():
        assert "4 samples have no true score; the last reason: RuntimeError: no score for this one" in run.log

    rows = rollout_log.read(output).to_pandas()
    assert rows.groupby("group").size().to_dict() == dict.fromkeys(range(26), 4)
    prompts = [json.loads(line)["input"] for line in (folder / "prompts.jsonl").read_text().splitlines()]
    assert sorted(rows.prompt) == sorted(prompt for prompt in prompts for _ in range(4))
    assert set(rows.checkpoint) == {"sft"} and set(rows.step) == {0}
    assert rows.reward.notna().all() and rows.reward.nunique() > 50, "the reward model's own scores"
    # In other micro-batches, the same model rounds otherwise.
    assert (rows.reward_again - rows.reward).abs().max() < 0.02 * rows.reward.std(), "it repeats its errors"
    unscored = rows.prompt.str.contains(r"add 3 \+ 3")
    assert rows.score[unscored].isna().all() and set(rows.score[~unscored]) == {0.0, 1.0}
    even = rows.response.map(ascii_characters) % 2 == 0
    assert (rows.score[~unscored] == even[~unscored].astype(float)).all()
    assert not rows.kept.any() and not rows.draws.any()
    assert run.rows("PolicyModelActor", "forward") == run.rows("CriticModelActor", "forward") == {}
