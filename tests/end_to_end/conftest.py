"""Fixtures of the end-to-end tests."""

import pytest

pytest.importorskip("openrlhf")

from real_stack import Stack


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Stack:
    return Stack(tmp_path_factory.mktemp("models"))
