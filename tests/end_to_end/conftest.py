"""Fixtures of the end-to-end tests."""

from collections.abc import Iterator

import pytest

pytest.importorskip("openrlhf")

from real_stack import Stack


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    made = Stack(tmp_path_factory.mktemp("models"))
    yield made
    made.close()
