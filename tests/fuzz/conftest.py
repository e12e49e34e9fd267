"""How much is fuzzed, and the small installation that is fuzzed: the integration tests' own.

`HEADWATER_TEST_EXAMPLES=200 make test PYTEST_ARGS='tests/fuzz -rP'` tries so many inputs of every kind, other ones each
time, and tells how many; without it the same few are tried every time.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator

import hypothesis
import pytest

from tests.integration.conftest import make_installation, publish, text_encoder_path

__all__ = ["make_installation", "publish", "text_encoder_path"]

EXAMPLES = int(os.environ.get("HEADWATER_TEST_EXAMPLES", "0"))
_IN_SHORT = 30


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The long form takes as long as it takes."""
    if EXAMPLES:
        for item in items:
            if "tests/fuzz" in item.path.as_posix():
                item.add_marker(pytest.mark.timeout(3600))


def fuzzing(in_short: int = _IN_SHORT) -> hypothesis.settings:
    """How hypothesis searches. Args: in_short: how many examples there are unless the environment says."""
    return hypothesis.settings(
        max_examples=EXAMPLES or in_short,
        deadline=None,
        database=None,
        derandomize=not EXAMPLES,
        suppress_health_check=list(hypothesis.HealthCheck),
        phases=(hypothesis.Phase.generate,),
    )


@pytest.fixture(scope="session")
def tried() -> Iterator[Counter[str]]:
    """How many inputs were tried, by what they were; told at the end where the long form was asked for."""
    counts: Counter[str] = Counter()
    yield counts
    if EXAMPLES:
        print("\n".join(["", "inputs tried:", *(f"{count:>9,} {name}" for name, count in sorted(counts.items()))]))
