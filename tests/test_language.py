"""Plain English: words that the repository does not use, because readers had to read their sentences twice."""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
#: Regular expressions, and what to write instead. Add a word here.
WORDS = {
    r"anew": "again",
    r"at each look": "on every call",
    r"mend(s|ed|ing)?": "fix, repair",
    r"beyond doubt": "statistically significant",
    r"beside": "next to, in addition to",
    r"likewise": "the same",
    r"meanwhile": "in the meantime, or nothing",
    r"as it stands": "unchanged",
    r"for certain": "certainly, or nothing",
    r"goes on": "continues, resumes",
    r"keeps? (its|their) word": "is accurate",
    r"told|is to be told": "logged, distinguished",
    r"rooms?|houses?": "module, package; space",
    r"what (it|they) takes?": "inputs",
    r"what becomes of": "result",
    r"nobody has shown": "not shown",
    r"as many as|so many": "a number",
    r"(?<!real[- ])(?<!hello )worlds?": "simulation setting",
    r"(a|an|one|the|another|each) look": "evaluation, scoring, check",
}
MOST_PER_10000_LINES = 2


def find_words() -> tuple[list[str], int]:
    """Return path, line and word of each hit, and the number of lines searched."""
    pattern = re.compile(rf"(?<![\w-])({'|'.join(f'(?:{word})' for word in WORDS)})(?![\w-])", re.I)
    hits, n_lines = [], 0
    for path in sorted(ROOT.rglob("*")):
        folders = path.relative_to(ROOT).parts[:-1]
        if path.suffix not in (".py", ".md", ".sh") or path == Path(__file__) or any(f[0] in ".b" for f in folders):
            continue
        for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
            n_lines += 1
            hits += [f"{path.relative_to(ROOT)}:{number}: {match[0]}" for match in pattern.finditer(line)]
    return hits, n_lines


def test_words_that_we_do_not_use() -> None:
    hits, n_lines = find_words()
    assert len(hits) <= MOST_PER_10000_LINES * n_lines / 10_000, "\n".join(hits)


if __name__ == "__main__":  # the lint of .ci/run
    found, total = find_words()
    print(*found, sep="\n", end="\n" * bool(found))
    sys.exit(len(found) > MOST_PER_10000_LINES * total / 10_000)
