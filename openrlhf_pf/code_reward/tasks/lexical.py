"""Python code by its letters: where strings, comments and brackets are, in one pass.

Answers of models are not parsed here: a parser can be kept busy for minutes by a few kilobytes, and this runs in the
process that trains. Whether code is right is found out in the sandbox.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

LONG = 2000  # characters; no line of code that is looked at as a whole is longer
_SIGNS = re.compile(r"\\.|\"\"\"|'''|[\"'#()\[\]{}]|```+|~~~+", re.S)
_BLOCK = re.compile(r"(?:async[ \t]+)?(?:if|elif|else|for|while|with|try|except|finally|def|class)\b")
_MOST = 100  # characters that are looked at
_CUT_OFF = re.compile(r"(?:[-+*/%=,.<>|&^~@\\]|\b(?:and|or|not|in|is|if|else|import|from|lambda|return\s+not))\s*$")
_HEAD = re.compile(r"(?:async\s+)?(?:def|class)\b")
# What comes after a head in its own statement; in brackets of a head there may be brackets, and in these none.
_BODY = re.compile(
    r"(?:async\s+)?(?:def|class)\s+\w+\s*(?:\((?:[^()]|\([^()]*\))*\))?\s*(?:->[^:]*)?:\s*(?P<body>[^\s#].*)"
)
_NO_BODY = re.compile(r"\.\.\.|pass\b|raise\s+NotImplementedError\b|[rRuU]?[\"']|@")


@dataclass
class State:
    """Where a line begins: in which string, in how many brackets."""

    quote: str = ""
    depth: int = 0

    @property
    def is_open(self) -> bool:
        """Whether a string or a bracket has no end yet."""
        return bool(self.quote or self.depth)


def scan(line: str, state: State) -> int:
    """Go over a line without its end; the place of the first fence in it that is code, or -1.

    A string in single quotes ends with its line, unless that ends in a backslash.
    """
    fence = -1
    place = 0
    while match := _SIGNS.search(line, place):
        sign, place = match[0], match.end()
        if state.quote:
            if sign == state.quote or (len(state.quote) == 1 and sign[0] == state.quote and len(sign) == 3):
                place = match.start() + len(state.quote)
                state.quote = ""
            elif len(sign) == 3 and sign[0] not in "\"'":
                continue
            elif len(sign) == 3 and sign != state.quote:
                place = match.start() + (3 if len(state.quote) == 3 else 1)
            continue
        if sign[0] in "`~" and len(sign) >= 3:
            if fence < 0 and sign[0] == "`":
                fence = match.start()
        elif sign[0] in "\"'":
            state.quote = sign
        elif sign == "#":
            break
        elif sign in "([{":
            state.depth += 1
        elif sign in ")]}":
            state.depth = max(0, state.depth - 1)
    if len(state.quote) == 1 and not line.endswith("\\"):
        state.quote = ""
    return fence


def statements(code: str) -> tuple[list[int], State]:
    """The lines, from 0, on which statements at the top level begin, and where the code ends."""
    state, starts, joined = State(), [], False
    for number, line in enumerate(code.split("\n")):
        inside = state.is_open or joined
        if not inside and line[:1] not in ("", " ", "\t", "#", "\r", ")", "]", "}"):
            starts.append(number)
        scan(line, state)
        joined = line.endswith("\\")
    return starts, state


def has_body(code: str, definition: re.Pattern[str]) -> bool:
    """Whether a definition in code, at whose beginning the pattern matches, is more than a head, a docstring, ``...``
    or, as a class, methods of this kind.
    """
    within = -1  # how far the definition is indented
    for statement in _all_statements(code):
        bare = statement.lstrip()
        indent = len(statement) - len(bare)
        if indent <= within:
            within = -1
        if within < 0:
            if not definition.match(statement):
                continue
            within = indent
        if _HEAD.match(bare):
            body = _BODY.match(bare)
            bare = body["body"] if body else "pass"
        if not _NO_BODY.match(bare):
            return True
    return False


def _all_statements(code: str) -> Iterator[str]:
    """The beginning of every statement that comes to an end, at any level, with the blanks before it."""
    state, lines, first = State(), code.split("\n"), 0
    for number, line in enumerate(lines):
        scan(line, state)
        if not state.is_open:
            statement = "\n".join(lines[first : number + 1])[:LONG]
            first = number + 1
            if statement.strip() and statement.lstrip()[0] != "#":
                yield statement


def without_tail(code: str) -> str:
    """Code without a last statement that was cut off in the middle, unless nothing else would be left."""
    starts, state = statements(code)
    if len(starts) < 2:
        return code
    lines = code.split("\n")
    last = "\n".join(lines[starts[-1] :]).rstrip()
    if not (state.is_open or _is_cut_off(last)):
        return code
    # What belongs to the statement before goes with it: decorators of a function that was cut off.
    end = starts[-1]
    for start in reversed(starts[:-1]):
        if not lines[start].startswith("@"):
            break
        end = start
    return "\n".join(lines[:end]).rstrip() + "\n"


def _is_cut_off(statement: str) -> bool:
    last = statement[statement.rfind("\n") + 1 :]
    if statement.startswith("#"):
        return False
    code = last.split("#")[0].rstrip()
    if code.endswith(":") and "\n" not in statement:
        return True
    if _BLOCK.match(statement) and ":" not in statement:
        return True
    return bool(_CUT_OFF.search(code[-_MOST:])) and not code.endswith(("'", '"', "...")) and code[-1:] != "*"
