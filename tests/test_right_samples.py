"""The data set of samples that pass."""

import json

import pyarrow.parquet as pq
import pytest

from examples import right_samples
from openrlhf_pf.rollout_log import table_of


@pytest.fixture
def samples(tmp_path):
    scores = [1.0, 0.0, None, 1.0]
    columns = {"group": [0, 0, 1, 1], "prompt_id": ["a", "a", "b", "b"], "prompt": ["p", "p", "q", "q"]}
    columns |= {"response": ["w", "x", "y", 'z "é"'], "score": scores, "prompt_tokens": [1] * 4}
    columns |= {"response_tokens": [1] * 4, "weight": [1.0] * 4, "kept": [True] * 4, "draws": [1] * 4}
    pq.write_table(table_of(0, columns), tmp_path / "step_00000000.parquet")
    return tmp_path


def test_samples_that_pass_become_rows_for_sft(samples, capsys):
    output = samples / "right.jsonl"
    assert right_samples.main([str(samples), str(output)]) == 0
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    assert rows == [{"input": "p", "output": "w"}, {"input": "q", "output": 'z "é"'}]
    assert capsys.readouterr().out == "2 of 4 samples, from 2 prompts, are right\n"


def test_nothing_is_written_where_no_sample_passes(samples, capsys):
    output = samples / "right.jsonl"
    with pytest.raises(SystemExit):
        right_samples.main([str(samples), str(output), "--least", "2"])
    assert "none of 4 samples has a score of 2 or more: give another --least" in capsys.readouterr().err
    assert not output.exists()
