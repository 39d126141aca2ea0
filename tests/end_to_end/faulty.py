"""What goes wrong in a training: a reward server that misbehaves on request, and processes to kill by their id."""

import contextlib
import json
import os
import signal
import threading
from collections import Counter
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import psutil

from openrlhf_pf import rollout_log

#: What a server may do instead of answering.
HANG, CLOSE = "hang", "close"


class FaultyRewards:
    """A reward server over HTTP, as OpenRLHF asks one.

    Args:
        behave: called with the number in the prompt ("add 3 + 3?"), the query, how often this query has been asked,
            and a function that returns the process that asks; returns the answer (anything that JSON can say), an
            HTTP status, bytes to send as they are, ``HANG`` or ``CLOSE``.
        port: the one that an earlier server had.
    """

    def __init__(self, behave: Callable[[int, str, int, Callable[[], int]], Any], port: int = 0) -> None:
        asked: Counter[str] = Counter()
        self.closed = closed = threading.Event()

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                query = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["query"][0]
                asked[query] += 1
                number = int(query.split()[1])
                answer = behave(number, query, asked[query], lambda: process_at(self.client_address[1]))
                if answer is HANG:
                    closed.wait()
                if closed.is_set() or answer in (HANG, CLOSE):
                    return
                self.send_response(answer if type(answer) is int else 200)
                body = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
                self.send_header("Content-Type", "text/html" if isinstance(answer, bytes) else "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self.server.daemon_threads = True
        self.port = self.server.server_port
        self.url = f"http://127.0.0.1:{self.port}/score"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def die(self) -> None:
        """Answer nobody any more, and listen no longer."""
        if not self.closed.is_set():
            self.closed.set()
            self.server.shutdown()
            self.server.server_close()

    def __enter__(self) -> "FaultyRewards":
        return self

    def __exit__(self, *exception: object) -> None:
        self.die()


def distinct(query: str) -> float:
    """A reward: how many different characters there are."""
    return float(len(set(query)))


def process_at(port: int) -> int:
    """The process on this machine whose connection has this port at its end."""
    (pid,) = {c.pid for c in psutil.net_connections("tcp") if c.laddr and c.laddr.port == port and c.raddr and c.pid}
    return pid


def kill(pid: int) -> int:
    os.kill(pid, signal.SIGKILL)
    return pid


def latest(folder: Path) -> str:
    """The actor's last checkpoint."""
    with contextlib.suppress(FileNotFoundError):
        return (folder / "checkpoints" / "_actor" / "latest").read_text()
    return ""


def prompts_of(folder: Path) -> list[Counter[str]]:
    """Of each step in the rollout log, how often each prompt was in it, whichever run wrote it last."""
    table = rollout_log.read(folder / "log", ["step", "group", "prompt"]).to_pandas().drop_duplicates()
    return [Counter(rows.prompt) for _, rows in sorted(table.groupby("step"))]


def data_of(folder: Path) -> Counter[str]:
    """How often each prompt is in the data set."""
    return Counter(json.loads(line)["input"] for line in (folder / "prompts.jsonl").read_text().splitlines())
