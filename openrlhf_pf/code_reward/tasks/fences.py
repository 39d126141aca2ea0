"""Fenced blocks of code in an answer.

No Markdown parser: models open fences in the middle of a line, forget one of the two, and put fences into strings of
their programs, which are Python's to find.
"""

import re
from dataclasses import dataclass

from openrlhf_pf.code_reward.tasks.lexical import LONG, State, scan
from openrlhf_pf.code_reward.tasks.prose import PYTHON, begins_with_body, is_code

_QUOTE = re.compile(r"(?:^ {0,3}>.*\n?)+", re.M)
_QUOTED_FENCE = re.compile(r"^ {0,3}> ?(?:```|~~~)", re.M)
_QUOTE_SIGN = re.compile(r"^ {0,3}> ?", re.M)
# What stands around code instead of a fence, on lines of its own; around a fence it means nothing.
_BEGIN = re.compile(
    r"^[ \t]*(?:\[PYTHON\]|\[BEGIN\]|<code>|\\begin\{(?:code|lstlisting|verbatim)\})[ \t]*$(?!\s*(?:```|~~~))", re.M
)
_END = re.compile(r"^[ \t]*(?:\[/PYTHON\]|\[DONE\]|</code>|\\end\{(?:code|lstlisting|verbatim)\})[ \t]*$", re.M)
_LANGUAGE = re.compile(r"[ \t]*\{?\.?([A-Za-z][\w+#.-]{0,40})?")
# Each part begins where the one before has to end: to try every split takes seconds for a few kilobytes.
_ONE_LINE = re.compile(r"(?<!`)```+[ \t]*(?:python|py|python3)[ \t]+([^ \t`].*?)```", re.I)


@dataclass
class Block:
    code: str
    is_python: bool  # its fence says so
    other: bool = False  # its fence names another language


def with_fences(answer: str) -> str:
    """An answer whose code stands in plain fences, where it stood in quotes or between other marks."""
    if _QUOTED_FENCE.search(answer):
        answer = _QUOTE.sub(
            lambda quote: _QUOTE_SIGN.sub("", quote[0]) if _QUOTED_FENCE.search(quote[0]) else quote[0], answer
        )
    begin, end = _BEGIN.search(answer), _END.search(answer)
    first = min((mark.start() for mark in (begin, end) if mark), default=-1)
    if first < 0 or "```" in answer[:first] or "~~~" in answer[:first]:
        return answer
    if end and end.start() == first:  # the prompt began it
        return answer[:first]
    return _END.sub("```", _BEGIN.sub("```python", answer))


def blocks_of(answer: str) -> list[Block]:
    """The fenced blocks, in one pass: each line is looked at once, and once more where a string has no end."""
    if "```" not in answer and "~~~" not in answer:
        return []
    lines, found, number, plain_until = answer.split("\n"), [], 0, 0
    fences = [place for place, line in enumerate(lines) if "```" in line or "~~~" in line]
    if fences and len(lines[fences[0]].strip()) == 3 and begins_with_body(answer):
        return []  # the prompt began the block
    if len(fences) == 1 and len(lines[fences[0]].strip()) == 3 and any(map(is_code, lines[: fences[0]])):
        return []  # the end of a block that has no beginning
    while number < len(lines):
        line = lines[number]
        if "```" not in line and "~~~" not in line:
            number += 1
            continue
        one = _ONE_LINE.search(line) if len(line) < LONG else None
        opened = None if one else _fence_start(line)
        if one:
            found.append(Block(one[1].rstrip(" \t"), True))
        if opened is None:
            number += 1
            continue
        code, number, plain_until = _block(lines, number, opened, plain_until)
        if code.strip():
            python = opened[1] in PYTHON
            found.append(Block(code, python, bool(opened[1]) and not python))
    return found


def _fence_start(line: str) -> tuple[str, str] | None:
    """The fence and the language, if a block begins at the end of this line."""
    bare = line.lstrip()
    sign = "~" if bare.startswith("~~~") else "`"
    place = line.find("~~~") if sign == "~" else line.rfind("```")
    if place < 0:
        return None
    end = place + 3
    while sign == "~" and line[end : end + 1] == "~":
        end += 1
    before = line[:end].rstrip(sign)
    if "`" in line[end:] or (before.strip() and before.count("```") % 2):
        return None
    language = (_LANGUAGE.match(line, end)[1] or "").lower()  # type: ignore[index]
    if language.endswith(".py") or re.fullmatch(r"(?:python|py)[\d.]+", language):  # solution.py, python3.11
        language = "python"
    return line[len(before) : end], language


def _block(lines: list[str], first: int, opened: tuple[str, str], plain_until: int) -> tuple[str, int, int]:
    """The code of the block that begins on a line, the line after it, and up to where strings count as plain text."""
    fence, language = opened
    indent = lines[first][: len(lines[first]) - len(lines[first].lstrip())]
    state, code, closed_in_string = State(), [], -1
    python = language in PYTHON
    number = first + 1
    while number < len(lines):
        line = lines[number]
        in_string = bool(state.quote) and number >= plain_until and (python or not language)
        stripped = line.strip()
        closes = stripped[:3] == fence[:3] and stripped.strip(fence[0]) == "" and len(stripped) >= len(fence)
        if closes and not in_string:
            return _cleaned(code, indent), number + 1, plain_until
        if in_string and stripped.startswith(fence[:3]):
            if closes and closed_in_string < 0:
                closed_in_string = number
            elif not closes and closed_in_string >= 0 and (_fence_start(stripped) or ("", ""))[1]:
                break  # the next block: the string had no end
        end = scan(line, state) if python or not language else line.find(fence) if fence in line else -1
        if end >= 0 and fence[0] == "`" and not closes:
            code.append(line[:end])
            return _cleaned(code, indent), number + 1, plain_until
        code.append(line)
        number += 1
    if closed_in_string >= 0 and (state.quote or number < len(lines)):
        code = lines[first + 1 : closed_in_string]
        return _cleaned(code, indent), closed_in_string + 1, number
    return _cleaned(code, indent), number, plain_until


def _cleaned(lines: list[str], indent: str) -> str:
    """Lines of a block that may lie indented in a list, or be a session with the interpreter."""
    if indent and all(not line.strip() or line.startswith(indent) for line in lines):
        lines = [line[len(indent) :] for line in lines]
    return session("".join(f"{line}\n" for line in lines))


def session(code: str) -> str:
    """What was typed into an interpreter, without what it printed."""
    if not code.lstrip().startswith(">>>"):
        return code
    typed = [line.lstrip() for line in code.split("\n")]
    return "".join(f"{line[4:]}\n" for line in typed if line.startswith((">>>", "...")))
