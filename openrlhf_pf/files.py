"""Write a file completely or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any


@contextmanager
def replace_file(path: str | Path, mode: str = "w") -> Iterator[IO[Any]]:
    """Open a temporary file next to ``path``; it takes the place of ``path`` when the block ends without an exception.

    Readers see the old content or the new one, never a part, also after a crash of the machine.

    Args:
        path: the file to write; its folder must exist.
        mode: ``w`` for UTF-8 text, ``wb`` for bytes.

    Yields:
        The open temporary file. After an exception it is deleted, and ``path`` is as it was.

    Raises:
        OSError: the file cannot be written.
    """
    path = Path(path)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(unfinished, mode, encoding=None if "b" in mode else "utf-8") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)
