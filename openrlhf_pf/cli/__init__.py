"""The commands of ``openrlhf-pf``, a module each, and the parser of their flags."""

import argparse
from typing import NoReturn

from openrlhf_pf.registry import explain_flags


class Parser(argparse.ArgumentParser):
    """A parser that refuses in one sentence, without its usage, and offers the flag that was meant."""

    def error(self, message: str) -> NoReturn:
        """Print the sentence and exit with status 2."""
        self.exit(2, f"{self.prog.split(' ')[-1]}: {explain_flags(self, message)}\n")
