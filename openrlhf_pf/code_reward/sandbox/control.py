"""How a worker's process (:mod:`worker`) is told to fork a child, to end it, and says what became of it.

Spoken by the pool's side (:mod:`driver`) to the process that forks checkers, and by a checker to the process that
forks the tested programs.
"""

import socket
from collections.abc import Sequence
from typing import Any

from openrlhf_pf.code_reward.judge import codec

MESSAGE_BYTES = 65536
STOP_SECONDS = 60.0


class Unavailable(Exception):
    """The sandbox itself failed: no statement about any program."""


class Control:
    """One end of a ``SOCK_SEQPACKET`` connection to a worker's process, called ``who`` in errors.

    Every method raises ``Unavailable``; the worker is of no use after that.
    """

    def __init__(self, connection: socket.socket, who: str) -> None:
        self.connection = connection
        self._who = who
        connection.settimeout(STOP_SECONDS)

    def start(self, limits: dict[str, Any], files: Sequence[int]) -> None:
        """Have it fork a child that holds these file descriptors."""
        try:
            socket.send_fds(self.connection, [codec.encode_plain(limits)], files)
        except (OSError, ValueError) as error:
            raise self._unavailable(error) from error

    def stop(self, gone: bool = False) -> None:
        """Have the child killed with all that it started.

        A child that is ``gone`` has closed its socket: it is given a moment to come to its own end.
        """
        try:
            self.connection.send(b"gone" if gone else b"stop")
        except OSError as error:
            raise self._unavailable(error) from error

    def report(self, seconds: float = STOP_SECONDS) -> dict[str, Any]:
        """After :meth:`stop`: how the child ended, and what it used. At the very first: what the jail lacks."""
        try:
            self.connection.settimeout(seconds)
            message = self.connection.recv(MESSAGE_BYTES)
            report = codec.decode_plain(message) if message else {"failed": "gone"}
        except (OSError, ValueError) as error:
            raise self._unavailable(error) from error
        if "failed" not in report:
            return report
        raise Unavailable(f"{self._who} failed: {report['failed']}")

    def _unavailable(self, error: Exception) -> Unavailable:
        return Unavailable(f"{self._who}: {error}")
