"""What a model answered, without what stands around it: special tokens, thoughts, marks of an answer."""

import re

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
