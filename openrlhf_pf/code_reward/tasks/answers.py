"""The program in a model's answer, without special tokens, thoughts and prose; each step is one pass over it."""

import re
import textwrap

from openrlhf_pf.code_reward.tasks.fences import Block, blocks_of, session, with_fences
from openrlhf_pf.code_reward.tasks.lexical import has_body, statements, without_tail
from openrlhf_pf.code_reward.tasks.prose import fences_are_in_strings, unfenced

_TAGS = "think|thinking|thought|thoughts|reasoning|reflection|scratchpad|analysis"
_OPEN = re.compile(rf"<(?:{_TAGS}|seed:think|\|begin_of_thought\||\|thinking\|)>|\[THINK\]|◁think▷", re.I)
_CLOSE = re.compile(rf"<(?:/(?:{_TAGS}|seed:think)|\|end_of_thought\||\|/thinking\|)>|\[/THINK\]|◁/think▷", re.I)
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


def without_thoughts(answer: str) -> str:
    """What comes after the thoughts, and in it what stands between marks of an answer; nothing if it is not there."""
    _, final, after = answer.rpartition("<|channel|>final<|message|>")
    if final:
        return after
    if answer.lstrip().startswith(("<|channel|>", "<|start|>assistant<|channel|>")):  # cut off before the answer
        return ""
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
    marked = _last_outside_strings(answer, _ANSWER)
    if marked < 0:
        return answer
    answer = answer[marked:]
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


_BYTE_ORDER_MARK = re.compile(r"^\ufeff+", re.M)
_DEFINITIONS = re.compile(
    r"(?:import\s|from\s|(?:async\s+)?def\s|class\s|@|[A-Za-z_]\w*\s*(?::[^=]+)?=[^=]|\"\"\"|''')"
)
_READS = re.compile(r"\binput\s*\(|\bstdin\b(?!\s*=[^=])|\bopen\s*\(\s*0|\bfileinput\b|os\.read\s*\(\s*0")
_RETURNS = re.compile(r"\b(?:return|yield|raise)\b")
_WRITES = re.compile(r"\bp?print\s*\(|\bstdout\b|os\.write\s*\(")


def defines_name(code: str, name: str) -> bool:
    """Whether code defines a function, a class or a variable at its top level, as far as one can see."""
    return _definition(name, indent="").search(code) is not None


def _definition(name: str, indent: str = r"[ \t]*") -> re.Pattern[str]:
    name = re.escape(name)
    return re.compile(rf"^{indent}(?:async[ \t]+)?(?:def|class)[ \t]+{name}\b|^{name}[ \t]*[:=]", re.M)


def with_body(prompt: str, code: str) -> str:
    """A prompt that ends in a function without its body, continued by the body, indented as it has to be.

    Models indent it or not, and where their answer was stripped, only the first line is not indented.
    """
    head, newline, blanks = prompt.rpartition("\n")
    if blanks.strip():  # it ends within a line
        if not blanks.rstrip().endswith((":", "'''", '"""')):
            return prompt + code
        head, newline, blanks = prompt, "\n", ""
    last = head.rstrip().rpartition("\n")[2]
    indent = blanks or last[: len(last) - len(last.lstrip())] + (4 * " " if last.endswith(":") else "")
    lines = [line for line in code.split("\n") if line.strip()][:2]
    first, second = ([len(line) - len(line.lstrip()) for line in lines] + [0, 0])[:2]
    if first == len(indent) or not (first or _RETURNS.search(code)):
        return f"{head}{newline}{code if first else blanks + code}"
    is_head = lines[0].split("#")[0].rstrip().endswith(":")
    if first < len(indent) and (second > len(indent) if is_head else second >= len(indent)):
        return f"{head}{newline}{indent}{code.lstrip()}"
    bare = textwrap.dedent(code)
    return head + newline + (code if bare.lstrip("\n")[:1].isspace() else textwrap.indent(bare, indent))


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
        pattern = _definition(entry_point)
        defining = [place for place, block in enumerate(blocks) if pattern.search(block.code)]
        if defining:
            whole = (place for place in reversed(defining) if has_body(blocks[place].code, pattern))
            chosen = next(whole, defining[-1])
            return without_tail(_with_helpers(blocks, defining, chosen, entry_point))
        return without_tail(_tagged(blocks)[-1].code)
    return without_tail(_whole_program(blocks))


def _tagged(blocks: list[Block]) -> list[Block]:
    return [block for block in blocks if block.is_python] or blocks


def _with_helpers(blocks: list[Block], defining: list[int], chosen: int, entry_point: str) -> str:
    uses = re.compile(rf"\b{re.escape(entry_point)}\b|^[ \t]*(?:print|assert)\b", re.M)
    all_defining = set(defining)

    def helps(place: int, block: Block) -> bool:
        if place in all_defining or uses.search(block.code):
            return False
        is_whole = block.is_python and place < chosen and not statements(block.code)[1].is_open
        return is_whole or _only_defines(block.code)

    return "\n".join(block.code for place, block in enumerate(blocks) if place == chosen or helps(place, block))


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
    if not any(map(_WRITES.search, [*before, blocks[last].code])):  # nothing that prints: later blocks belong to it
        end = next((place + 1 for place in range(end, len(blocks)) if _WRITES.search(blocks[place].code)), end)
    return "\n".join([*before, *(block.code for block in blocks[last:end])])


def _only_defines(code: str) -> bool:
    starts, state = statements(code)
    lines = code.split("\n")
    return bool(starts) and not state.is_open and all(_DEFINITIONS.match(lines[start]) for start in starts)
