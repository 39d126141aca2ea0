"""Code that has no fence around it, without the prose before and after it."""

import re

from openrlhf_pf.code_reward.tasks.lexical import State, scan

PYTHON = {"python", "py", "python3", "py3", "python2", "ipython", "ipython3", "pycon", "sage", "cython"}
LONG = 2000  # characters; no line of code that is looked at as a whole is longer
_CODE_LINE = re.compile(
    r"(?:import\s+\w|from\s+[\w.]+\s+import\b|(?:async\s+)?def\s+\w|class\s+\w+\s*[:(]|@\w"
    r"|(?:if|for|while|with|try|elif|else)\b.*:\s*(?:#.*|[^ ].*)?$"
    r"|(?:print|input|exit|quit)\s*\("
    r"|[A-Za-z_][\w.\[\]]*(?:\s*,\s*\*?[A-Za-z_]\w*)*\s*(?::\s*[\w\[\], .]+)?[-+*/%|&]?=[^=]"
    r"|[A-Za-z_][\w.]*\([^)]*\)\s*$|\"\"\"|''')"
)
_PROSE = re.compile(r"[A-Za-z][\w'’-]*,? +[A-Za-z(`'\"]")
_KEYWORDS = set("""
import from def class async await if elif for while with try assert del global nonlocal raise return yield not lambda
match case type print and or in is else except finally pass
""".split())


def unfenced(answer: str) -> str:
    """Code that has no fence around it, without the prose before and after it."""
    lines = answer.split("\n")
    for number, line in enumerate(lines):
        if line.strip().lower() in PYTHON:
            lines = lines[number + 1 :]
            break
        if line.strip():
            break
    filled = next((line for line in lines if line.strip()), "")
    if filled[:1] in (" ", "\t"):  # the body of the prompt's function
        return "\n".join(lines)
    start = next((number for number, line in enumerate(lines) if is_code(line)), None)
    if start is None:
        return answer
    while start and lines[start - 1].startswith("#"):
        start -= 1
    if not any(_is_prose(line) for line in lines[:start]):
        start = 0
    return "\n".join(_without_prose(lines[start:]))


def _without_prose(lines: list[str]) -> list[str]:
    state = State()
    for number, line in enumerate(lines):
        if not state.quote and not state.depth and _is_prose(line) and not is_code(line):
            return lines[:number]
        fence = scan(line, state)
        if fence >= 0:  # the end of a block that has no beginning
            return [*lines[:number], line[:fence]]
    return lines


def is_code(line: str) -> bool:
    line = line[:LONG]
    return _CODE_LINE.match(line) is not None and not (_is_prose(line) and not re.search(r"[=(:]", line))


def _is_prose(line: str) -> bool:
    line = line[:LONG]
    if not _PROSE.match(line):
        return line.rstrip().endswith((":", ".", "!", "?")) and bool(
            re.fullmatch(r"[A-Z][\w'’ ,-]*[:.!?]", line.rstrip())
        )
    words = re.findall(r"[\w'’]+", line[:200])
    return words[0] not in _KEYWORDS and (
        len(words) < 2 or words[1] not in ("in", "is", "and", "or", "if", "for", "not")
    )
