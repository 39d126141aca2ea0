"""The program in an answer: any program, in any wrapping, comes out unchanged; every answer is looked at once."""

import json
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from openrlhf_pf.code_reward.tasks import fences, lexical, prose
from openrlhf_pf.code_reward.tasks.answers import extract_code, response_of

TEXTS = [
    '"</think>"', "'<answer>'", '"```"', "'<|im_end|>'", "'it is'", '"""\n```\ncode\n```\n"""', '"# no"', "'\\\\'",
    "'''\n~~~\n'''", '"</s>"', 'f"{1}"', "r'\\d'", '"\\"```"', "'<think>'", '"Here is the code:"',
]  # fmt: skip
LINES = st.one_of(
    st.tuples(st.sampled_from("abc"), st.sampled_from(TEXTS)).map(lambda pair: f"{pair[0]} = {pair[1]}"),
    st.sampled_from(
        ["import math", "# a comment with ``` in it", "x = [\n    1,\n    2,\n]", "y = (1 +\n     2)", "@staticmethod"]
    ).filter(lambda line: not line.startswith("@")),
    st.sampled_from(["z = 1", "def g(a):\n    return a", "class K:\n    pass", "for i in range(3):\n    z = i"]),
)
BODIES = st.lists(LINES, max_size=4).map("\n".join)
FUNCTIONS = BODIES.map(lambda before: f"{before}\ndef f(n):\n    return n\n".lstrip("\n"))
PROGRAMS = BODIES.map(lambda before: f"{before}\nn = int(input())\nprint(n)\n".lstrip("\n"))

PROSE = st.sampled_from(["", "Here is the code:", "We add the numbers, it's simple.", "1. First `read`, then print."])
THOUGHTS = st.sampled_from(
    [
        "",
        "<think>\nLet me try\n```python\ndef f(n):\n    return 0\nprint(input())\n```\nNo.\n</think>\n",
        "<thinking>hm</thinking>\n",
        "[THINK]a\n```\nb[/THINK]\n",
        "<|begin_of_thought|>\nx\n<|end_of_thought|>\n",
        "<reasoning>\nwe\n</reasoning>\n",
        "no opening tag\n```python\ndraft()\n```\n</think>\n",
    ]
)
FENCES = st.sampled_from(
    [
        ("```python\n", "```"),
        ("```py\n", "```"),
        ("```Python\n", "```\n\nIt works."),
        ("````python\n", "````"),
        ("~~~python\n", "~~~"),
        ("The code: ```python\n", "```"),
        ("```python title=x\n", "```\n\nOutput:\n\n```\n3\n```"),
        ("```text\nab\n```\n\n```python\n", "```"),
        ("```bash\npip install x\n```\n```python\n", "```\n```json\n{}\n```"),
        ("```python\n", ""),
        ("[PYTHON]\n", "[/PYTHON]\nIt works."),
        ("[BEGIN]\n", "[DONE]"),
        ("<code>\n", "</code>"),
        ("\\begin{code}\n", "\\end{code}"),
    ]
)
TAGS = st.sampled_from([("", ""), ("<answer>\n", "\n</answer>"), ("<|begin_of_solution|>\n", "\n<|end_of_solution|>")])
TOKENS = st.sampled_from(["", "<|im_end|>", "</s>", "<｜end▁of▁sentence｜>", "<|eot_id|>\n", "<end_of_turn>\n<eos>"])


def unchanged(code, program):
    return code.rstrip("\n") == program.rstrip("\n")


@settings(max_examples=400, deadline=None)
@given(FUNCTIONS | PROGRAMS, THOUGHTS, PROSE, FENCES, TAGS, TOKENS)
def test_any_program_comes_out_of_any_wrapping_unchanged(program, thought, prose, fence, tags, token):
    assume(fence[1] or not tags[1])  # what has no end, has none for a tag either
    answer = f"{thought}{tags[0]}{prose}\n\n{fence[0]}{program}{fence[1]}{tags[1]}{token}"
    name = "f" if "def f(" in program else ""
    assert unchanged(extract_code(response_of(f"<bos>What?{answer}", "<bos>What?"), name), program)


@settings(max_examples=200, deadline=None)
@given(FUNCTIONS | PROGRAMS, st.sampled_from(["   ", "\t", "    ", " "]))
def test_a_program_that_lies_indented_in_a_list(program, indent):
    assume('"""' not in program and "'''" not in program)
    block = textwrap.indent(f"```python\n{program}```", indent)
    assert unchanged(extract_code(f"1. The code:\n\n{block}\n\n2. Done.", "f" if "def f(" in program else ""), program)


@settings(max_examples=200, deadline=None)
@given(FUNCTIONS | PROGRAMS, TOKENS)
def test_a_program_without_a_fence(program, token):
    assume("```" not in program and "~~~" not in program)
    name = "f" if "def f(" in program else ""
    assert unchanged(extract_code(program + token, name), program)
    assert unchanged(extract_code(f"python\n{program}{token}", name), program)
    assert unchanged(extract_code(f"{program}```\nThis works because it adds.{token}", name), program)


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet="`~\n\"'# ab(<>|\\=.:", max_size=80), st.sampled_from(["", "f"]))
def test_no_text_is_too_strange(text, name):
    assert isinstance(extract_code(text, name), str)


CASES = [json.loads(line) for line in (Path(__file__).parent / "cases" / "extraction.jsonl").open(encoding="utf-8")]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["kind"])
def test_the_code_in_an_answer(case):
    assert extract_code(case["answer"], case.get("entry_point", "")).strip("\n") == case["code"]


@pytest.mark.parametrize("text", ["<|im_end|>", "</s>", "<｜end▁of▁sentence｜>", "[INST]", "<eos>"])
def test_tokens_stay_in_a_program_s_strings(text):
    program = f"a = {text!r}\nprint(a, input())\n"
    assert response_of(f"What?{program}{text}", "What?") == program
    assert extract_code(f"```python\n{program}```{text}").strip() == program.strip()


@pytest.mark.parametrize(
    "unit", ['```\n"""\n', '```python\nx = """\n```\n', "```\n", "x = (\n", "```python\n", "'''\n"]
)
def test_no_line_is_looked_at_more_than_a_few_times(unit, monkeypatch):
    """However many fences and strings are open: one pass per line, not one per pair of lines."""
    seen, scan = [], lexical.scan

    def counted(line, state):
        seen.append(1)
        return scan(line, state)

    monkeypatch.setattr(lexical, "scan", counted)
    monkeypatch.setattr(fences, "scan", counted)
    monkeypatch.setattr(prose, "scan", counted)
    looks = []
    for count in (200, 800):
        seen.clear()
        extract_code(unit * count)
        extract_code(unit * count, "f")
        looks.append(len(seen) / (count * len(unit.split("\n"))))
    assert looks[1] < 12 and looks[1] < 1.3 * looks[0] + 0.1


# Every letter or block of these was once looked at with every other one.
LONG = {
    "blanks after a fence": '("```python" + " " * 1980 + "\\n") * 200',
    "lines of backticks": '("`" * 1990 + "\\n") * 2000',
    "blanks around a colon": '"```python\\na" + " " * 2**20 + ":" + " " * 2**20 + "\\n```\\n"',
    "heads within heads": '"```python\\n" + "".join(" " * k + "def f():\\n" for k in range(2000)) + "```\\n"',
    "letters of another script": '"解 (" * 2**20 + "\\n解释" * 2**18',
    "quotes and marks": '"> ```\\n" * 2**18 + "[BEGIN]\\n" * 2**18',
    "definitions of one function": '"```python\\ndef f(): pass\\n```\\n" * 200_000',
}


@pytest.mark.parametrize("name", LONG)
def test_long_answers_come_to_an_end(name):
    """Before the kernel ends the process; they take a tenth of that at most."""
    code = f"""
import resource
from openrlhf_pf.code_reward.tasks.answers import extract_code
text = {LONG[name]}
resource.setrlimit(resource.RLIMIT_CPU, (40, 40))
print(len(extract_code(text)) + len(extract_code(text, "f")) > 0)
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (run.returncode, run.stdout) == (0, "True\n"), run.stderr


def test_no_parser_touches_an_answer(monkeypatch):
    """It can be kept busy for minutes by a few kilobytes, in the process that trains."""
    import ast

    def refuse(*_, **__):
        raise AssertionError("parsed")

    monkeypatch.setattr(ast, "parse", refuse)
    assert extract_code("```python\ndef f(n):\n    return n\nx = (", "f").strip() == "def f(n):\n    return n"


@pytest.mark.parametrize(
    "query, prompt, response",
    [
        ("What?def f(): 0", "What?", "def f(): 0"),
        ("<|im_start|>user\nWhat?<|im_end|>\nyes<|im_end|>", "<|im_start|>user\nWhat?<|im_end|>\n", "yes"),
        ("<s> What? yes</s>", "What?", " yes"),
        ("something else", "What?", "something else"),
    ],
)
def test_the_response_in_a_query(query, prompt, response):
    assert response_of(query, prompt) == response
