"""How long it takes to find the program in an answer, from 1 KB to 4 MB: each line should grow as its answers do.

python tests/benchmarks/extraction_time.py
"""

import sys
import time

from openrlhf_pf.code_reward.tasks.answers import extract_code, response_of

SHAPES = {
    "backticks": lambda n: "`" * n,
    "one fence of backticks": lambda n: "```" * (n // 3),
    "fences, a line each": lambda n: "```\n" * (n // 4),
    "fences with a language": lambda n: "```python\n" * (n // 10),
    "fences around strings": lambda n: '```\n"""\n' * (n // 8),
    "strings that open in fences": lambda n: '```python\nx = """\n```\n' * (n // 20),
    "code with a broken tail": lambda n: "x = 1\n" * (n // 6) + "y = (",
    "code without a fence": lambda n: "a = [1, 2]\n" * (n // 11),
    "statements that are cut off": lambda n: "x = (\n" * (n // 6),
    "blanks after a fence": lambda n: ("```python" + " " * 1980 + "\n") * (n // 1990),
    "lines of backticks": lambda n: ("`" * 1990 + "\n") * (n // 1991),
    "fences that grow": lambda n: "\n".join("`" * k for k in range(3, int((2 * n) ** 0.5))),
    "fences in fences": lambda n: "".join("  " * k + "```python\n" for k in range(int(n**0.5))),
    "fences of two kinds": lambda n: "~~~\n```\n" * (n // 8),
    "blanks around a colon": lambda n: "```python\na" + " " * (n // 2) + ":" + " " * (n // 2) + "\n```\n",
    "definitions of one function": lambda n: "```python\ndef f(): pass\n```\n" * (n // 28),
    "brackets": lambda n: "```python\n" + "(" * n,
    "quotes": lambda n: "```python\n" + "'" * n,
    "triple quotes": lambda n: "```python\n" + '"""' * (n // 3),
    "backslashes": lambda n: "```python\n'" + "\\" * n,
    "prose": lambda n: "This is a sentence without any code. " * (n // 37),
    "prose in lines": lambda n: "This is a sentence.\n" * (n // 20),
    "one long word": lambda n: "a" * n,
    "blanks": lambda n: " " * n,
    "lines of blanks": lambda n: " \n" * (n // 2),
    "closed thoughts": lambda n: "</think>" * (n // 8),
    "quoted closed thoughts": lambda n: "'</think>'" * (n // 10),
    "open thoughts": lambda n: "<think>" * (n // 7),
    "open thoughts, a line each": lambda n: "x\n<think>\n" * (n // 10),
    "marks of answers": lambda n: "<answer>" * (n // 8),
    "special tokens": lambda n: "<|im_end|>" * (n // 10),
    "half tokens": lambda n: "<|" * (n // 2),
    "sessions": lambda n: "```\n>>> 1\n1\n```\n" * (n // 16),
    "names": lambda n: "a, " * (n // 3) + "= 1",
    "decorators": lambda n: "@a\n" * (n // 3) + "def f(",
    "assignments": lambda n: "a = b\n\n\nText here.\n" * (n // 20),
    "dots": lambda n: "a." * (n // 2),
    "spaces between words": lambda n: "a  " * (n // 3),
    "heads in heads": lambda n: "```python\n" + "".join(" " * k + "def f():\n" for k in range(int((2 * n) ** 0.5))),
    "a head without an end": lambda n: "```python\ndef f(" + "(a)" * (n // 3) + "\n```\n",
    "quoted fences": lambda n: "> ```\n" * (n // 6),
    "marks of code": lambda n: ("[BEGIN]" + "\n" * 1000) * (n // 1007),
    "lines of another script": lambda n: "解释 a b\n" * (n // 7),
    "blocks of helpers": lambda n: "```python\nimport os\n```\n" * (n // 24) + "```python\ndef f():\n    pass\n```",
}


def seconds(text):
    """For a whole response, with and without a known function."""
    start = time.perf_counter()
    extract_code(response_of(text, ""), "")
    extract_code(text, "f")
    return time.perf_counter() - start


def main():
    sizes = [1 << 10, 1 << 14, 1 << 18, 1 << 22][: int(sys.argv[1]) if sys.argv[1:] else 4]
    print("answer".ljust(30), *(f"{size >> 10} KB".rjust(10) for size in sizes), "ms each", sep="  ")
    for name, shape in SHAPES.items():
        times = [1000 * seconds(shape(size)) for size in sizes]
        print(name.ljust(30), *(f"{value:10.2f}" for value in times), flush=True, sep="  ")


if __name__ == "__main__":
    main()
