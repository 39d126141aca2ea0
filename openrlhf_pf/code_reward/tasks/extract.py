"""The code in a model's answer: which of its blocks are the program, each step in one pass over the answer."""

import re

from openrlhf_pf.code_reward.tasks.answers import without_thoughts, without_tokens
from openrlhf_pf.code_reward.tasks.fences import Block, blocks_of, session, with_fences
from openrlhf_pf.code_reward.tasks.lexical import State, has_body, statements, without_tail
from openrlhf_pf.code_reward.tasks.prose import fences_are_in_strings, unfenced

_BYTE_ORDER_MARK = re.compile(r"^\ufeff+", re.M)
_DEFINITIONS = re.compile(
    r"(?:import\s|from\s|(?:async\s+)?def\s|class\s|@|[A-Za-z_]\w*\s*(?::[^=]+)?=[^=]|\"\"\"|''')"
)
_READS = re.compile(r"\binput\s*\(|\bstdin\b(?!\s*=[^=])|\bopen\s*\(\s*0|\bfileinput\b|os\.read\s*\(\s*0")
_WRITES = re.compile(r"\bp?print\s*\(|\bstdout\b|os\.write\s*\(")


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
    prints; with the blocks before it that only define, and those after it up to the first that prints if it does not.
    With it, the last block that defines it, not as a stub if there is another, with the other blocks that do not use
    it. Without a fence, the answer itself without the prose around it. What was cut off in the middle of a statement
    at the end is left out.
    """
    answer = _BYTE_ORDER_MARK.sub("", answer.replace("\r\n", "\n"))
    answer = with_fences(without_tokens(without_thoughts(answer)))
    blocks = [block for block in blocks_of(answer) if not block.other]
    if not blocks or fences_are_in_strings(answer):
        return without_tail(session(unfenced(answer)))
    if entry_point:
        name = re.escape(entry_point)
        pattern = re.compile(rf"^[ \t]*(?:async[ \t]+)?(?:def|class)[ \t]+{name}\b|^{name}[ \t]*[:=]", re.M)
        defining = [place for place, block in enumerate(blocks) if pattern.search(block.code)]
        if defining:
            chosen = next(
                (place for place in reversed(defining) if has_body(blocks[place].code, pattern)), defining[-1]
            )
            return without_tail(_with_helpers(blocks, defining, chosen, entry_point))
        return without_tail(_tagged(blocks)[-1].code)
    return without_tail(_whole_program(blocks))


def _tagged(blocks: list[Block]) -> list[Block]:
    return [block for block in blocks if block.is_python] or blocks


def _with_helpers(blocks: list[Block], defining: list[int], chosen: int, entry_point: str) -> str:
    uses = re.compile(rf"\b{re.escape(entry_point)}\b|^[ \t]*(?:print|assert)\b", re.M)
    parts, all_defining = [], set(defining)
    for place, block in enumerate(blocks):
        if place == chosen:
            parts.append(block.code)
        elif place in all_defining or uses.search(block.code):
            continue
        elif (block.is_python and place < chosen and _is_whole(block.code)) or _only_defines(block.code):
            parts.append(block.code)
    return "\n".join(parts)


def _whole_program(blocks: list[Block]) -> str:
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
    end = last + 1
    if not any(_WRITES.search(code) for code in [*before, blocks[last].code]):  # nothing that prints: it goes on
        end = next((place + 1 for place in range(end, len(blocks)) if _WRITES.search(blocks[place].code)), end)
    return "\n".join([*before, *(block.code for block in blocks[last:end])])


def _only_defines(code: str) -> bool:
    starts, state = statements(code)
    lines = code.split("\n")
    return bool(starts) and _is_at_rest(state) and all(_DEFINITIONS.match(lines[start]) for start in starts)


def _is_whole(code: str) -> bool:
    return _is_at_rest(statements(code)[1])


def _is_at_rest(state: State) -> bool:
    return not state.quote and not state.depth
