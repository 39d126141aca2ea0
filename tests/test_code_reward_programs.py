"""Whole programs run as ``python3 program < input`` runs them."""

import pytest

from openrlhf_pf.code_reward import Pool
from openrlhf_pf.code_reward.tasks import from_label

SUM = {"stdin": ["1 2\n", "30 4\n"], "stdout": ["3\n", "34\n"]}
PRINT = "print(sum(map(int, {}.split())))\n"


@pytest.fixture(scope="module")
def pool():
    with Pool(1, packages=()) as pool:
        yield pool


def check(pool, program, label=SUM):
    return pool.check(program, from_label(label).problem)


@pytest.mark.parametrize(
    "program, verdict, detail",
    [
        ("print(3)\n", "failed", "printed '3"),
        (PRINT.format("input()") + "raise ValueError('late')\n", "failed", "ValueError: late"),
        (PRINT.format("input()") + "exit(1)\n", "failed", "exit status 1"),
        (PRINT.format("input()") + "import sys; sys.exit('no')\n", "failed", "exit status 1"),
        ("print(\n", "syntax_error", "SyntaxError"),
        ("import ctypes\nctypes.string_at(0)\n", "crashed", "signal 11"),
        ("x = bytearray(1 << 40)\n", "memory", "MemoryError"),
        ("import os\nos._exit(0)\n", "failed", "printed ''"),
        ("import os\nos.fork()\n" + PRINT.format("input()"), "failed", "PermissionError"),
    ],
)
def test_a_wrong_program_fails_and_is_said_how(pool, program, verdict, detail):
    result = check(pool, program)
    assert (result.verdict.value, detail in result.detail) == (verdict, True), result


def test_one_run_leaves_nothing_to_the_next(pool):
    program = "import os\nprint(len(os.listdir('.')), end='')\nopen('left', 'w').write('x')\n"
    assert check(pool, program, {"stdin": ["", ""], "stdout": ["0", "0"]}).passed


def test_limits_of_the_label(pool):
    burn = "import time\nwhile time.process_time() < {}:\n    pass\nprint(1)\n"
    label = {"stdin": ["", ""], "stdout": ["1", "1"], "test_cpu_seconds": 0.3}
    assert check(pool, burn.format(0.1), label).passed
    assert check(pool, burn.format(0.6), label).verdict.value == "timeout"
    total = {"stdin": ["", "", ""], "stdout": ["1"] * 3, "cpu_seconds": 1}
    assert check(pool, burn.format(0.6), total).verdict.value == "timeout"
    loud = {"stdin": [""], "stdout": ["x" * 3000], "output_mb": 0.001}
    assert "printed more than 1049 bytes" in check(pool, "print('x' * 3000)\n", loud).detail
    assert check(pool, "print('x' * 3000)\n", loud | {"output_mb": 1}).passed
    small = {"stdin": [""], "stdout": ["1"], "memory_mb": 64}
    assert check(pool, "x = bytearray(100 << 20)\nprint(1)\n", small).verdict.value == "memory"


def test_a_checker_of_the_label_s_own(pool):
    checker = """
def checker(input, output, expected):
    a, b = map(int, output.split())
    return a + b == int(input) and a > 0 and b > 0
"""
    label = {"stdin": ["5\n", "9\n"], "stdout": ["2 3\n", "4 5\n"], "checker": checker}
    assert check(pool, "n = int(input())\nprint(1, n - 1)\n", label).passed
    assert check(pool, "n = int(input())\nprint(1, n)\n", label).verdict.value == "failed"
    assert check(pool, "print('?')\n", label).verdict.value == "failed"


def test_a_checker_for_calls(pool):
    checker = "def checker(input, output, expected):\n    return sorted(output) == sorted(expected)\n"
    label = {"entry_point": "f", "inputs": [[3]], "outputs": [[0, 1, 2]], "checker": checker}
    assert check(pool, "def f(n):\n    return list(range(n))[::-1]\n", label).passed
    assert not check(pool, "def f(n):\n    return [0]\n", label).passed
