"""Code that has no fence around it, without the prose before and after it."""

import re
import textwrap

from openrlhf_pf.code_reward.tasks.lexical import LONG, State, scan

PYTHON = {"python", "py", "python3", "py3", "python2", "ipython", "ipython3", "pycon", "sage", "cython"}
_CODE_LINE = re.compile(
    r"(?:import\s+\w|from\s+[\w.]+\s+import\b|(?:async\s+)?def\s+\w|class\s+\w+\s*[:(]|@\w"
    r"|(?:if|for|while|with|try|elif|else)\b.*:\s*(?:#.*|[^ ].*)?$"
    r"|(?:print|input|exit|quit)\s*\("
    r"|[A-Za-z_][\w.\[\]]*(?:\s*,\s*\*?[A-Za-z_]\w*)*\s*(?::\s*[\w\[\], .]+)?[-+*/%|&]?=[^=]"
    r"|[A-Za-z_][\w.]*\([^)]*\)\s*$|[rRuUbBfF]{0,2}(?:\"\"\"|'''))"
)
# Two words, or a line that begins in upper case and is a name, a title or a sentence, or what Python has nowhere.
_PROSE = re.compile(r"(?:[A-Za-z][\w'-]*,?|[(\[][A-Za-z][\w'-]*[)\]]?|[A-Za-z][\w.'-]*\.) +[A-Za-z(`'\"]")
_TITLE = re.compile(r"[A-Z][\w' ,-]*(?:[.!?]|:[^=]*)?\s*$")
_STRANGE = re.compile(r"(?=\S)[^\"'#]*(?:[?$]|!(?!=)|(?<!`)`(?!``)|\\(?=\S))|(?!>>>)[=<>|]|->")
# Markdown: items of a list, what is bold, rules. At the beginning of a statement none of it is Python.
_MARKDOWN = re.compile(r"(?:[-*+]|\(?\d{1,3}[.):]) +(?:[^\W\d]|[`*$])|\*\*\w|__[A-Z]|([-*_=])\1\1+\s*$")
_KEYWORDS = set("""
import from def class async await if elif for while with try assert del global nonlocal raise return yield not lambda
match case type print and or in is else except finally pass
""".split())
_STATEMENTS = set("return if for while with try yield raise pass assert def import from".split())
_OPERATORS = {"in", "is", "and", "or", "if", "for", "not"}
# Two words that may be a value and an operator, with what no expression continues with.
_WORD = rf"(?!(?:{'|'.join(sorted(_KEYWORDS))})\b)[\w'-]+"
_SENTENCE = re.compile(rf"\w+ +\w+ +{_WORD},? +{_WORD}|[^\"'#]*[.!]\s*$")


class _Plain(dict[int, str]):
    """Characters of any script as those of ASCII that mean the same to Python: letters (those of scripts without two
    cases are capitals), other parts of names, blanks; ``?`` where it knows the character in strings only.
    """

    def __missing__(self, code: int) -> str:
        sign = chr(code)
        if code < 128:
            plain = sign
        elif ("_" + sign).isidentifier():
            plain = "X" if sign.isalpha() and not sign.islower() else "x"
        else:
            plain = " " if sign.isspace() else "'" if sign == "’" else "?"
        self[code] = plain
        return plain


_PLAIN = _Plain()


def unfenced(answer: str) -> str:
    """Code that has no fence around it, without the prose before and after it."""
    lines = answer.split("\n")
    for number, line in enumerate(lines):
        if line.strip().lower().rstrip(":") in PYTHON:
            lines = lines[number + 1 :]
            break
        if line.strip():
            break
    filled = next((line for line in lines if line.strip()), "")
    if filled[:1] in (" ", "\t"):  # the body of the prompt's function
        return "\n".join(_without_prose(lines))
    start = next((number for number, line in enumerate(lines) if is_code(line)), None)
    if start is None:  # all code may be indented, after prose: a body, or a block without a fence
        indented = (number for number, line in enumerate(lines) if line[:1] in (" ", "\t") and begins_with_body(line))
        start = next(indented, None)
        return answer if start is None else textwrap.dedent("\n".join(_without_prose(lines[start:])))
    while start and lines[start - 1].startswith("#"):
        start -= 1
    if not any(_is_prose(line) for line in lines[:start]):
        start = 0
    return "\n".join(_without_prose(lines[start:]))


def begins_with_body(answer: str) -> bool:
    """Whether an answer continues a function of the prompt, with indented code in its first line."""
    line = next((line for line in answer.split("\n") if line.strip()), "")
    word = re.match(r"\w*", line.lstrip())
    return line[:1] in (" ", "\t") and (is_code(line.lstrip()) or word[0] in _STATEMENTS)  # type: ignore[index]


def fences_are_in_strings(answer: str) -> bool:
    """Whether an answer is code from its first line on, whose first fence is in a string: it has none around it."""
    state, begun = State(), False
    for line in answer.split("\n"):
        if not begun and line.strip():
            begun = True
            if not (line.startswith("#") or is_code(line)):
                return False
        inside = bool(state.quote)
        outside = scan(line, state) >= 0
        if "```" in line or "~~~" in line:
            return inside or ("```" in line and not outside)
    return False


def _without_prose(lines: list[str]) -> list[str]:
    state, joined = State(), False
    for number, line in enumerate(lines):
        if not (state.is_open or joined) and _is_prose(line) and not is_code(line):
            return lines[:number]
        joined = line.endswith("\\")
        fence = scan(line, state)
        if fence >= 0:  # the end of a block that has no beginning
            return [*lines[:number], line[:fence]]
    return lines


def _plain(line: str) -> str:
    line = line[:LONG]
    return line if line.isascii() else line.translate(_PLAIN)


def is_code(line: str) -> bool:
    line = _plain(line)
    return _CODE_LINE.match(line) is not None and not (_is_prose(line) and not re.search(r"[=(:]", line))


def _is_prose(line: str) -> bool:
    line = _plain(line)
    if _MARKDOWN.match(line):
        return True
    if not _PROSE.match(line):
        return _TITLE.match(line) is not None or _STRANGE.match(line) is not None
    words = re.findall(r"[\w']+", line[:200])
    return words[0] not in _KEYWORDS and (
        len(words) < 2 or words[1] not in _OPERATORS or _SENTENCE.match(line) is not None
    )
