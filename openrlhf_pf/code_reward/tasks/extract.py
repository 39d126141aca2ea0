"""The code in a model's answer: fenced blocks, prose around them, a repeated prompt, an answer that was cut off."""

import ast
import re

_FENCE = re.compile(r"^[ \t]*(```+|~~~+)[ \t]*([\w+-]*)[^\n]*\n(.*?)(?:^[ \t]*\1[ \t]*$|\Z)", re.M | re.S)
_SPECIAL = re.compile(r"<\|[^|>\n]{1,40}\|>|</s>|<s>|<eos>|<end_of_turn>")
_OTHER_LANGUAGES = {
    "bash",
    "sh",
    "shell",
    "console",
    "text",
    "txt",
    "output",
    "json",
    "yaml",
    "java",
    "cpp",
    "c",
    "javascript",
}
_STARTS = re.compile(r"^(?:import |from \w[\w.]* import |def |async def |class |@|if __name__)", re.M)


def response_of(query: str, prompt: str) -> str:
    """What the model added: OpenRLHF's query is the prompt and the response, decoded from tokens with special ones
    in it.
    """
    if query.startswith(prompt):
        response = query[len(prompt) :]
    else:  # a tokenizer that changes blanks, or adds a special token in front
        bare = _SPECIAL.sub("", query)
        tail = prompt.rstrip()[-200:]
        place = query.rfind(tail) if tail else -1
        response = query[place + len(tail) :] if place >= 0 else bare
    return _SPECIAL.sub("", response)


def extract_code(answer: str, entry_point: str = "") -> str:
    """The program in an answer.

    Of several fenced blocks, the last one that defines ``entry_point``, with the blocks before it that only import
    or define; without such a block, all Python blocks together. Without a fence, the answer itself, from its first
    line of code on if it begins with prose. What was cut off in the middle of a statement at the end is left out if
    the rest parses.
    """
    answer = answer.replace("\r\n", "\n")
    if "</think>" in answer:
        answer = answer.rpartition("</think>")[2]
    blocks = [match[3] for match in _FENCE.finditer(answer) if match[2].lower() not in _OTHER_LANGUAGES]
    if not blocks:
        return _without_tail(_unfenced(answer))
    blocks = [_without_prompt_signs(block) for block in blocks]
    if entry_point:
        pattern = re.compile(
            rf"^\s*(?:async\s+)?(?:def|class)\s+{re.escape(entry_point)}\b|^{re.escape(entry_point)}\s*=", re.M
        )
        defining = [place for place, block in enumerate(blocks) if pattern.search(block)]
        if defining:
            last = defining[-1]
            helpers = [
                block for place, block in enumerate(blocks[:last]) if place not in defining and _only_defines(block)
            ]
            return _without_tail("\n".join([*helpers, blocks[last]]))
    return _without_tail(blocks[0] if len(blocks) == 1 else "\n".join(filter(_parses, blocks)) or blocks[-1])


def _parses(code: str) -> bool:
    try:
        ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return True


def _only_defines(code: str) -> bool:
    if not _parses(code):
        return False
    kinds = (
        ast.Import,
        ast.ImportFrom,
        ast.FunctionDef,
        ast.AsyncFunctionDef,
        ast.ClassDef,
        ast.Assign,
        ast.AnnAssign,
    )
    return all(isinstance(node, kinds) for node in ast.parse(code).body)


def _without_prompt_signs(block: str) -> str:
    """A block that lies indented in a list, or was typed into an interactive session."""
    lines = block.split("\n")
    filled = [line for line in lines if line.strip()]
    if filled and all(line.startswith((">>>", "...")) for line in filled):
        return "\n".join(line[4:] for line in lines)
    return block


def _unfenced(answer: str) -> str:
    if _parses(answer):
        return answer
    first = answer.lstrip("\n")[:1]
    start = _STARTS.search(answer)
    # The indented body of the prompt's function is code as it stands.
    if first in (" ", "\t") or start is None:
        return answer
    before = answer[: start.start()]
    return answer if _parses(before) else answer[start.start() :]


def _without_tail(code: str) -> str:
    """Code without a last statement that does not parse, unless nothing else would be left."""
    wrapped = code if code[:1] not in (" ", "\t") else f"def f():\n{code}"
    if _parses(wrapped):
        return code
    lines = code.rstrip().split("\n")
    for end in range(len(lines) - 1, max(0, len(lines) - 200), -1):
        if lines[end][:1] in ("", " ", "\t", ")", "]", "}", "#"):
            continue  # only a statement at the top level can go: half a function is no function
        shorter = "\n".join(lines[:end])
        if shorter.strip() and _parses(shorter):
            return shorter + "\n"
    return code
