"""Segments that callers name are so many and no more."""

from __future__ import annotations

from headwater_core.allocation import Record
from headwater_core.document_store import Version
from headwater_core.experiments import Experiment
from headwater_core.tallies import ArmTally
from headwater_server.experiment_book import MAX_SEGMENTS, ExperimentBook


def segments(book: ExperimentBook, *surfaces: str) -> list[str]:
    found = []
    for surface in surfaces:
        assigned = book.assign("user:ada", 0, surface, {}, 10)
        assert assigned is not None
        found.append(assigned.assignment.segment)
    return found


def test_what_callers_name_beyond_the_limit_is_one_segment() -> None:
    """Each costs rows that every server reads; those that are known go on."""
    content = Experiment.model_validate(
        {
            "arms": [{"name": "a"}, {"name": "b"}],
            "allocation": "thompson",
            "segment_by": "surface",
            "rewards": {"click": 1},
        }
    )
    book = ExperimentBook()
    book.replace([Version("x", 1, content, 0)])
    book.learn("x", [ArmTally("home", arm, 1, 0.0, Record(1.0, 0.0)) for arm in "ab"])
    named = [f"surface-{number}" for number in range(MAX_SEGMENTS)]
    assert segments(book, *named) == [*named[:-1], ""]
    assert segments(book, "home", "surface-0", "another") == ["home", "surface-0", ""]
    book.replace([])
    book.replace([Version("x", 1, content, 0)])
    assert segments(book, "another") == ["another"]
