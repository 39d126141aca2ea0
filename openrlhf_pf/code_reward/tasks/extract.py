"""The code in a model's answer: thoughts before it, fenced blocks, prose around them, a prompt that is repeated, an
answer that was cut off.

Every step is one pass over the answer. No Markdown parser: models open fences in the middle of a line, forget one of
the two, and put fences into strings of their programs, which are Python's to find.
"""

import re
from dataclasses import dataclass

from openrlhf_pf.code_reward.tasks.lexical import State, scan, statements, without_tail

_THOUGHT_TAGS = ("think", "thinking", "thought", "thoughts", "reasoning", "reflection", "scratchpad", "analysis")
_OPEN = re.compile(
    r"<(?:" + "|".join(_THOUGHT_TAGS) + r")>|\[THINK\]|<\|begin_of_thought\|>|<\|thinking\|>|◁think▷|<seed:think>",
    re.I,
)
_CLOSE = re.compile(
    r"</(?:" + "|".join(_THOUGHT_TAGS) + r")>|\[/THINK\]|<\|end_of_thought\|>|<\|/thinking\|>|◁/think▷|</seed:think>",
    re.I,
)
_ANSWER = re.compile(r"<(?:answer|solution|output)>|<\|begin_of_solution\|>|<\|channel\|>final<\|message\|>", re.I)
_ANSWER_END = re.compile(r"</(?:answer|solution|output)>|<\|end_of_solution\|>", re.I)
# What tokenizers write around turns; not what models write around thoughts and answers.
_TOKEN = (
    r"(?:<\|(?!begin_of_thought|end_of_thought|begin_of_solution|end_of_solution|/?thinking|channel\|)[^|<>\n]{1,40}\|>"
    r"|<｜[^｜<>\n]{1,40}｜>|</?s>|<(?:bos|eos|pad|unk|end_of_turn|start_of_turn|EOT)>|\[/?INST\])"
)
_FIRST_TOKENS = re.compile(rf"(?:\s*{_TOKEN})+")
_LAST_TOKEN = re.compile(rf"{_TOKEN}\s*\Z")
_TAIL = 64  # no token is longer
_PYTHON = {"python", "py", "python3", "py3", "python2", "ipython", "ipython3", "pycon", "sage", "cython"}
_LANGUAGE = re.compile(r"[ \t]*\{?\.?([A-Za-z][\w+#.-]{0,40})?")
_LONG = 2000  # characters; no line of code that is looked at as a whole is longer
# Each part begins where the one before has to end: to try every split takes seconds for a few kilobytes.
_ONE_LINE = re.compile(r"(?<!`)```+[ \t]*(?:python|py|python3)[ \t]+([^ \t`].*?)```", re.I)
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
_DEFINITIONS = re.compile(
    r"(?:import\s|from\s|(?:async\s+)?def\s|class\s|@|[A-Za-z_]\w*\s*(?::[^=]+)?=[^=]|\"\"\"|''')"
)
_READS = re.compile(r"\binput\s*\(|\bstdin\b|\bopen\s*\(\s*0|\bfileinput\b|os\.read\s*\(\s*0")
_WRITES = re.compile(r"\bprint\s*\(|\bstdout\b|os\.write\s*\(")


@dataclass
class _Block:
    code: str
    is_python: bool  # its fence says so
    other: bool = False  # its fence names another language


def response_of(query: str, prompt: str) -> str:
    """What the model added: OpenRLHF's query is the prompt and the response, decoded from tokens with special ones
    in it.
    """
    if query.startswith(prompt):
        return without_tokens(query[len(prompt) :])
    # A tokenizer that changes blanks, or adds a special token in front.
    tail = prompt.rstrip()[-200:]
    place = query.rfind(tail) if tail else -1
    return without_tokens(query[place + len(tail) :] if place >= 0 else query)


def without_tokens(text: str) -> str:
    """A text without the special tokens at its two ends; in its middle they may be a program's own."""
    if first := _FIRST_TOKENS.match(text):
        text = text[first.end() :]
    end = len(text)
    while end and (last := _LAST_TOKEN.search(text[max(0, end - _TAIL) : end])):
        end = max(0, end - _TAIL) + last.start()
    return text[:end]


def defines_name(code: str, name: str) -> bool:
    """Whether code defines a function, a class or a variable at its top level, as far as one can see."""
    return (
        re.search(
            rf"^(?:(?:async[ \t]+)?(?:def|class)[ \t]+{re.escape(name)}\b|{re.escape(name)}[ \t]*[:=])", code, re.M
        )
        is not None
    )


def extract_code(answer: str, entry_point: str = "") -> str:
    """The program in an answer.

    Without ``entry_point``, of several fenced blocks the last one that is a program: one that reads, or else one that
    prints; with the blocks before it that only define. With it, the last block that defines it, with the other blocks
    that do not use it. Without a fence, the answer itself without the prose around it. What was cut off in the middle
    of a statement at the end is left out.
    """
    answer = without_tokens(_without_thoughts(answer.replace("\r\n", "\n")))
    blocks = [block for block in _blocks(answer) if not block.other]
    if not blocks:
        return without_tail(_session(_unfenced(answer)))
    if entry_point:
        name = re.escape(entry_point)
        pattern = re.compile(rf"^[ \t]*(?:async[ \t]+)?(?:def|class)[ \t]+{name}\b|^{name}[ \t]*[:=]", re.M)
        defining = [place for place, block in enumerate(blocks) if pattern.search(block.code)]
        if defining:
            return without_tail(_with_helpers(blocks, defining, entry_point))
        return without_tail(_tagged(blocks)[-1].code)
    return without_tail(_whole_program(blocks))


def _tagged(blocks: list[_Block]) -> list[_Block]:
    return [block for block in blocks if block.is_python] or blocks


def _with_helpers(blocks: list[_Block], defining: list[int], entry_point: str) -> str:
    uses = re.compile(rf"\b{re.escape(entry_point)}\b|^[ \t]*(?:print|assert)\b", re.M)
    parts, all_defining = [], set(defining)
    for place, block in enumerate(blocks):
        if place == defining[-1]:
            parts.append(block.code)
        elif place in all_defining or uses.search(block.code):
            continue
        elif (block.is_python and place < defining[-1] and _is_whole(block.code)) or _only_defines(block.code):
            parts.append(block.code)
    return "\n".join(parts)


def _whole_program(blocks: list[_Block]) -> str:
    blocks = _tagged(blocks)
    for wanted in (_READS, _WRITES):
        places = [place for place, block in enumerate(blocks) if wanted.search(block.code)]
        if wanted is _READS:  # where it is only defined that something is read, the rest comes in a later block
            places = [place for place in places if not _only_defines(blocks[place].code)] or places
        if places:
            break
    last = places[-1] if places else len(blocks) - 1
    if _only_defines(blocks[last].code) and last + 1 < len(blocks):
        last = len(blocks) - 1
    before = [block.code for block in blocks[:last] if _only_defines(block.code)]
    return "\n".join([*before, blocks[last].code])


def _only_defines(code: str) -> bool:
    starts, state = statements(code)
    lines = code.split("\n")
    return bool(starts) and _is_at_rest(state) and all(_DEFINITIONS.match(lines[start]) for start in starts)


def _is_whole(code: str) -> bool:
    return _is_at_rest(statements(code)[1])


def _is_at_rest(state: State) -> bool:
    return not state.quote and not state.depth


def _without_thoughts(answer: str) -> str:
    """What comes after the thoughts, and in it what stands between marks of an answer; nothing if it is not there."""
    if "<|channel|>" in answer and (final := answer.rfind("<|channel|>final<|message|>")) >= 0:
        return answer[final + len("<|channel|>final<|message|>") :]
    opened = _OPEN.match(answer.lstrip())
    closed = _last_outside_strings(answer, _CLOSE)
    if closed >= 0:
        answer = answer[closed:]
    elif opened:
        return ""
    # Thoughts that begin after the last ones and have no end.
    begun = _first_outside_blocks(answer, _OPEN)
    if begun >= 0:
        answer = answer[:begun]
    return _marked(answer)


def _marked(answer: str) -> str:
    """What stands between the last marks of an answer, if there are some."""
    start = _last_outside_strings(answer, _ANSWER)
    if start < 0:
        return answer
    answer = answer[start:]
    ends = [match.start() for match in _ANSWER_END.finditer(answer)]
    return answer[: ends[-1]] if ends else answer


def _last_outside_strings(text: str, pattern: re.Pattern[str]) -> int:
    """The end of the last match that no quotes on its line enclose, or -1."""
    for match in reversed(list(pattern.finditer(text))):
        start = text.rfind("\n", max(0, match.start() - 1000), match.start()) + 1
        before = text[max(start, match.start() - 1000) : match.start()]
        end = text.find("\n", match.end(), match.end() + 1000)
        after = text[match.end() : end if end >= 0 else match.end() + 1000]
        if not any(before.count(quote) % 2 and quote in after for quote in "\"'`"):
            return match.end()
    return -1


def _first_outside_blocks(answer: str, pattern: re.Pattern[str]) -> int:
    """Where a match stands at the beginning of a line outside of fences, or -1."""
    if not pattern.search(answer):
        return -1
    place, inside = 0, False
    for line in answer.split("\n"):
        if line.lstrip().startswith(("```", "~~~")):
            inside = not inside
        elif not inside and pattern.match(line.lstrip()):
            return place
        place += len(line) + 1
    return -1


def _blocks(answer: str) -> list[_Block]:
    """The fenced blocks, in one pass: each line is looked at once, and once more where a string has no end."""
    if "```" not in answer and "~~~" not in answer:
        return []
    lines, blocks, number, plain_until = answer.split("\n"), [], 0, 0
    fences = [place for place, line in enumerate(lines) if "```" in line or "~~~" in line]
    if len(fences) == 1 and len(lines[fences[0]].strip()) == 3 and any(map(_is_code, lines[: fences[0]])):
        return []  # the end of a block that has no beginning
    while number < len(lines):
        line = lines[number]
        if "```" not in line and "~~~" not in line:
            number += 1
            continue
        if one := _ONE_LINE.search(line) if len(line) < _LONG else None:
            blocks.append(_Block(one[1].rstrip(" \t"), True))
            number += 1
            continue
        opened = _fence_start(line)
        if opened is None:
            number += 1
            continue
        block, number, plain_until = _block(lines, number, opened, plain_until)
        if block.code.strip():
            blocks.append(block)
    return blocks


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
    return line[len(before) : end], (_LANGUAGE.match(line, end)[1] or "").lower()  # type: ignore[index]


def _block(lines: list[str], first: int, opened: tuple[str, str], plain_until: int) -> tuple[_Block, int, int]:
    """The block that begins on a line, the line after it, and up to where strings are not to be looked at again."""
    fence, language = opened
    indent = lines[first][: len(lines[first]) - len(lines[first].lstrip())]
    state, code, closed_in_string = State(), [], -1
    python = language in _PYTHON
    number = first + 1
    while number < len(lines):
        line = lines[number]
        in_string = bool(state.quote) and number >= plain_until and (python or not language)
        stripped = line.strip()
        closes = stripped[:3] == fence[:3] and stripped.strip(fence[0]) == "" and len(stripped) >= len(fence)
        if closes and not in_string:
            return _Block(_cleaned(code, indent), python, bool(language) and not python), number + 1, plain_until
        if in_string and stripped.startswith(fence[:3]):
            if closes and closed_in_string < 0:
                closed_in_string = number
            elif not closes and closed_in_string >= 0 and (_fence_start(stripped) or ("", ""))[1]:
                break  # the next block: the string had no end
        end = scan(line, state) if python or not language else line.find(fence) if fence in line else -1
        if end >= 0 and fence[0] == "`" and not closes:
            code.append(line[:end])
            return _Block(_cleaned(code, indent), python, bool(language) and not python), number + 1, plain_until
        code.append(line)
        number += 1
    if closed_in_string >= 0 and (state.quote or number < len(lines)):
        code = lines[first + 1 : closed_in_string]
        return _Block(_cleaned(code, indent), python, bool(language) and not python), closed_in_string + 1, number
    return _Block(_cleaned(code, indent), python, bool(language) and not python), number, plain_until


def _cleaned(lines: list[str], indent: str) -> str:
    """Lines of a block that may lie indented in a list, or be a session with the interpreter."""
    if indent and all(not line.strip() or line.startswith(indent) for line in lines):
        lines = [line[len(indent) :] for line in lines]
    return _session("".join(f"{line}\n" for line in lines))


def _session(code: str) -> str:
    """What was typed into an interpreter, without what it printed."""
    if not code.lstrip().startswith(">>>"):
        return code
    typed = [line.lstrip() for line in code.split("\n")]
    return "".join(f"{line[4:]}\n" for line in typed if line.startswith((">>>", "...")))


def _unfenced(answer: str) -> str:
    """Code that has no fence around it, without the prose before and after it."""
    lines = answer.split("\n")
    for number, line in enumerate(lines):
        if line.strip().lower() in _PYTHON:
            lines = lines[number + 1 :]
            break
        if line.strip():
            break
    filled = next((line for line in lines if line.strip()), "")
    if filled[:1] in (" ", "\t"):  # the body of the prompt's function
        return "\n".join(lines)
    start = next((number for number, line in enumerate(lines) if _is_code(line)), None)
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
        if not state.quote and not state.depth and _is_prose(line) and not _is_code(line):
            return lines[:number]
        fence = scan(line, state)
        if fence >= 0:  # the end of a block that has no beginning
            return [*lines[:number], line[:fence]]
    return lines


def _is_code(line: str) -> bool:
    line = line[:_LONG]
    return _CODE_LINE.match(line) is not None and not (_is_prose(line) and not re.search(r"[=(:]", line))


def _is_prose(line: str) -> bool:
    line = line[:_LONG]
    if not _PROSE.match(line):
        return line.rstrip().endswith((":", ".", "!", "?")) and bool(
            re.fullmatch(r"[A-Z][\w'’ ,-]*[:.!?]", line.rstrip())
        )
    words = re.findall(r"[\w'’]+", line[:200])
    return words[0] not in _KEYWORDS and (
        len(words) < 2 or words[1] not in ("in", "is", "and", "or", "if", "for", "not")
    )
