"""The program in an answer: any program, in any wrapping, comes out unchanged; every answer is looked at once."""

import subprocess
import sys
import textwrap

# ruff: noqa: E501 - an answer and its program stand on one line
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


@pytest.mark.parametrize(
    "answer, code",
    [
        ("<think>\nLet me try\n```python\nx = 1\nprint(x)\n```\nwait", ""),
        ("```python\nx = 1\nprint(x)\ny = (", "x = 1\nprint(x)"),
        ("```python\nprint(1)\n@decorated\ndef f(", "print(1)"),
        ("```python\nprint(1)\nfor x in", "print(1)"),
        ("```python\nprint(1)\nprint('x", "print(1)"),
        ("```python\nprint(1)\nif x:", "print(1)"),
        ("```python\nprint(1) # why (\nx = 2", "print(1) # why (\nx = 2"),
        ("```python print(1)```", "print(1)"),
        ("```` py \t print(1) \t ````", "print(1)"),
        ("```python\nprint(1)```", "print(1)"),
        (">>> x = 1\n>>> print(x)\n1", "x = 1\nprint(x)"),
        ("```pycon\n>>> for i in range(2):\n...     print(i)\n...\n0\n1\n```", "for i in range(2):\n    print(i)"),
        ("```python\nprint(input())\n```\nFor example:\n```python\nprint('sample')\n```", "print(input())"),
        ("```python\ndef g():\n    return input()\n```\n```python\nprint(g())\n```", "def g():\n    return input()\n\nprint(g())"),
        ("<|channel|>analysis<|message|>hm<|end|><|start|>assistant<|channel|>final<|message|>```python\nprint(1)\n```", "print(1)"),
        ("Sure, I can help.\nimport sys\nprint(sys.stdin.read())\nThat is all it takes.", "import sys\nprint(sys.stdin.read())"),
    ],
)  # fmt: skip
def test_answers_of_other_kinds(answer, code):
    assert extract_code(answer).strip("\n") == code


REAL = "def f(n):\n    return n\n"


# Names of many scripts, and their signs where Python has them.
NAMES = (
    "β = 1\n结果 = [β]  # 和，即结果。\ndef плюс(длина, 值):\n    return длина + 值\nयोग = плюс(1, 2)\nпечать = print\n"
    "печать(\"你好，世界？\", योग)\nprint('«да»')\nβ is 结果 or β in 结果 and not β\nначало()"
)


@pytest.mark.parametrize(
    "before, after",
    [
        ("Here is the code:", "It adds two numbers."),
        ("This is it.", "It is simple and fast!"),
        ("Hier ist die Lösung:", "Größe und Länge werden addiert."),
        ("Voici la solution :", "« plus » retourne la somme."),
        ("¿Cómo? Así:", "Complejidad: O(n)"),
        ("Вот решение:", "Функция возвращает сумму."),
        ("Ответ:", "Сложность: O(n)"),
        ("Ιδού η λύση:", "Η συνάρτηση προσθέτει."),
        ("यहाँ समाधान है:", "यह योग लौटाता है।"),
        ("以下是解决方案：", "这个函数返回两个数的和。"),
        ("这是代码:", "解释：该函数将两个数相加。"),
        ("代码如下", "时间复杂度: O(n)"),
        ("解答は以下の通りです。", "この関数は和を返します"),
        ("다음은 코드입니다:", "이 함수는 합을 반환합니다."),
        ("إليك الحل:", "تعيد الدالة المجموع."),
    ],
)
def test_code_without_a_fence_between_prose_of_any_script(before, after):
    for program in ("def f(n):\n    return n", NAMES):
        assert extract_code(f"{before}\n\n{program}\n\n{after}\n").strip() == program
    assert extract_code(NAMES) == NAMES


@pytest.mark.parametrize(
    "words",
    [
        "- It adds one.\n- It returns it.",
        "* fast",
        "- `f` adds one",
        "1. First we add.\n2. Then we return.",
        "(1) We add.",
        "**Explanation**\n\nIt adds.",
        "**Time complexity:** O(n)",
        "__Explanation__: it adds",
        "---\n\nExplanation: it adds one.",
        "***\nIt adds one",
        "> Note that it adds one.",
        "| n | f(n) |\n|---|---|\n| 1 | 2 |",
        "(It adds one.)",
        "[Note] it adds one",
        "`f` adds one to n.",
        "Sure! Here is `f`:",
        "Certainly. Here is the code:",
        "e.g. f(1) = 2",
        "=> 3",
        "-> 3",
        "$O(n)$ time",
        "\\boxed{4}",
    ],
)
def test_code_without_a_fence_between_marks_of_prose(words):
    for answer in (f"{words}\n\n{REAL}", f"{REAL}\n{words}\n", f"{words}\n\n{REAL}\n{words}"):
        assert extract_code(answer, "f").strip() == REAL.strip()


@pytest.mark.parametrize(
    "program",
    [
        "(a, b) = map(int, input().split())\nprint(a + b)",
        "N = int(input())\n(A, B) = N, 1\n[C, D] = A, B\nprint(C)",
        "*a, b = input().split()\nprint(b)",
        "x: int\nx = 3\nprint(x)",
        "x = 1 \\\n- Y \\\n| Z\nprint(x)",
        "(A\n + B)\nprint(A if A else 'a b')",
        "(x if x else y)\n[print(i) for i in x]\n(not x)\n(lambda x: x)(3)\n-x\nassert x != y",
        "class f:\n    def g(self):\n        ...",
        "def f(n):\n    return n\n\n\nclass g(Protocol): ...",
        'def f(n):\n    """Return n.\n\n    ```python\n    f(1)\n    ```\n    """\n    return n',
        "r'''Add.\n~~~~\n'''\nimport sys\nprint(sys.stdin.read())",
        "# A solution\nx = 1  # ``` is no fence\nprint('```')",
    ],
)
def test_a_program_without_a_fence_stays_as_it_is(program):
    assert extract_code(program).strip() == program


@pytest.mark.parametrize(
    "answer, code",
    [
        ("\ufeffprint(1)", "print(1)"),
        ("```python\n\ufeffprint(1)\n```", "print(1)"),
        ("</think>\n\n\ufeff```python\nprint('\ufeff')\n```", "print('\ufeff')"),
        (
            "Here:\n> ```python\n> if 1:\n>     print(1)\n>\n> print('>>> ')\n> ```\n> So.",
            "if 1:\n    print(1)\n\nprint('>>> ')",
        ),
        (">```\n>print(1)\n>```", "print(1)"),
        ("> What?\n\n```python\nprint('''\n> no\n''')\n```", "print('''\n> no\n''')"),
        ("> ```pycon\n> >>> print(1)\n> 1\n> ```", "print(1)"),
        ("print(1)\n[DONE]\n\nWrite another one.\n[BEGIN]\nprint(2)\n[DONE]", "print(1)"),
        ("[PYTHON]\n```python\nprint(1)\n```\n[/PYTHON]", "print(1)"),
        ("```python\nprint('''\n<code>\n''')\n```\nRun:\n<code>\nls\n</code>", "print('''\n<code>\n''')"),
        ("Text with <code>f</code>.\n<code>\nprint(1)", "print(1)"),
    ],
)
def test_byte_order_marks_quotes_and_wrappers(answer, code):
    assert extract_code(answer).strip("\n") == code


@pytest.mark.parametrize(
    "stub",
    [
        "def f(n): ...",
        "def f(n: int) -> int: pass",
        "def f(n)",
        "def f(\n    n: int = (1),\n) -> dict[str, int]:\n    '''Return n.\n\n    n\n    '''",
        "import math\n\nasync def f(n):\n    # your code\n    ...\n\n\ndef g():\n    return 1",
        "@cache\ndef f(n):\n    r'''n'''\n    raise NotImplementedError()",
        "class f:\n    '''A class.'''\n    def g(self): ...\n\n    @property\n    def h(self):\n        pass",
    ],
)
def test_a_stub_does_not_replace_a_definition(stub):
    answer = f"```python\n{REAL}```\nThe head:\n```python\n{stub}\n```"
    assert extract_code(answer, "f") == REAL
    assert extract_code(f"```python\n{stub}\n```", "f").strip() == stub


@pytest.mark.parametrize(
    "last",
    [
        "def f(n): return (n)",
        "def f(n: dict[str, int] = g(1)) -> int: return n",
        "f = lambda n: n",
        "class f:\n    '''A class.'''\n    def g(self): ...\n\n    def h(self): return 1",
        "def f(n):\n    '''n'''\n    def g(): ...\n    return g",
        "def f(n): ...\n\ndef f(n):\n    return n",
    ],
)
def test_the_last_of_two_definitions_counts(last):
    assert extract_code(f"```python\n{REAL}```\nBetter:\n```python\n{last}\n```", "f").strip() == last


READ, SHOW, BOTH = "a, b = map(int, input().split())\n", "print(a + b)\n", "print(sum(map(int, input().split())))\n"


@pytest.mark.parametrize(
    "blocks, code",
    [
        ([READ, SHOW], READ + SHOW),
        ([READ, "a += 1\n", SHOW, "print('Usage')\n"], READ + "a += 1\n" + SHOW),
        ([READ, SHOW, BOTH], BOTH),
        ([BOTH, SHOW], BOTH),
        ([READ, "a + b\n"], READ),
        (["def show(n):\n    print(n)\n", READ + "show(a + b)\n", SHOW], "def show(n):\n    print(n)\n" + READ + "show(a + b)\n"),
        (["from pprint import pprint\npprint(input())\n", SHOW], "from pprint import pprint\npprint(input())\n"),
        ([BOTH, "import sys, io\nsys.stdin = io.StringIO('1 2')\nmain()\n"], BOTH),
    ],
)  # fmt: skip
def test_a_program_in_several_blocks(blocks, code):
    answer = "".join(f"Next:\n```python\n{block}```\n" for block in blocks)
    assert [line for line in extract_code(answer).split("\n") if line] == code.strip().split("\n")


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


ADD = "def add(a, b):\n    return a + b"
WRONG = "def add(a, b):\n    return a - b"


@pytest.mark.parametrize(
    "answer, code",
    [
        (ADD, ADD),
        (f"```python\n{ADD}\n```", ADD),
        (f"Sure!\n\n```py\n{ADD}\n```\nIt adds.", ADD),
        (f"~~~\n{ADD}\n~~~", ADD),
        (f"Here:\n```python\n{ADD}", ADD),  # the fence was cut off
        (f"```python\n{ADD}\nprint(add(1,", ADD),  # and so was a statement
        (f"```python\n{WRONG}\n```\nNo, better:\n```python\n{ADD}\n```", ADD),
        (f"```python\n{ADD}\n```\nUse it so:\n```python\nprint(add(1, 2))\n```", ADD),
        (f"```bash\npip install x\n```\n```python\n{ADD}\n```\n```\n3\n```", ADD),
        (f"```python\nimport math\n```\nThen\n```python\n{ADD}\n```", f"import math\n\n{ADD}"),
        (f"The function is simple.\n\n{ADD}\n", ADD),
        (f"<think>def add(a, b): hm\n```python\n{WRONG}\n```</think>\n```python\n{ADD}\n```", ADD),
        (f"```python\r\n{ADD}\r\n```".replace("\n", "\r\n").replace("\r\r", "\r"), ADD),
        ("    return a + b\n", "    return a + b"),
        ("", ""),
        ("I cannot help with that.", "I cannot help with that."),
    ],
)
def test_the_code_in_an_answer(answer, code):
    assert extract_code(answer, "add").strip("\n") == code


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
