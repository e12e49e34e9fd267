"""Who is let in: places, deadlines that cannot be met, and hints."""

from __future__ import annotations

import pytest

from headwater_server import admission as module
from headwater_server.admission import Admission
from headwater_server.errors import OverloadedError


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def admission(clock: Clock) -> Admission:
    return Admission(max_in_flight=2, retry_after_ms=100, now_s=clock)


def test_places_are_given_back(admission: Admission) -> None:
    """A third call is refused while two are in flight, over all methods, and let in when one has left."""
    admission.enter("Recommend", None)
    admission.enter("WriteEvents", None)
    with pytest.raises(OverloadedError, match="2 calls are being answered") as caught:
        admission.enter("Recommend", None)
    assert caught.value.retry_after_ms == 100
    admission.leave("WriteEvents", None)
    admission.enter("Recommend", None)
    assert admission.in_flight == 2


def test_what_would_come_too_late_is_refused_first(admission: Admission) -> None:
    """Answers take 0.4 s now: who waits for 0.3 s is not let in, who waits for 0.5 s is, and so is another method."""
    admission.enter("Recommend", None)
    admission.leave("Recommend", 0.4)
    admission.enter("Recommend", None)
    with pytest.raises(OverloadedError, match="deadline is in 300 ms and answers take 400 ms") as caught:
        admission.enter("Recommend", 0.3)
    assert caught.value.retry_after_ms == 400
    admission.enter("Recommend", 0.5)
    admission.leave("Recommend", None)
    admission.enter("ScoreItems", 0.01)


def test_an_idle_server_tries(admission: Admission) -> None:
    """Nobody is in the way: the deadline may be met this time."""
    admission.enter("Recommend", None)
    admission.leave("Recommend", 5.0)
    admission.enter("Recommend", 0.001)
    assert admission.in_flight == 1


def test_what_was_slow_once_is_forgotten(admission: Admission, clock: Clock) -> None:
    """A refused call teaches nothing, so memory fades: else one slow answer would close the door for good."""
    admission.enter("Recommend", None)
    admission.leave("Recommend", 1.0)
    admission.enter("WriteEvents", None)
    with pytest.raises(OverloadedError):
        admission.enter("Recommend", 0.3)
    clock.now_s += 2.0
    admission.enter("Recommend", 0.3)


def test_the_usual_time_follows(admission: Admission) -> None:
    """Many quick answers after a slow one: a short deadline can be met again."""
    for took_s in (2.0, *[0.01] * 60):
        admission.enter("Recommend", None)
        admission.leave("Recommend", took_s)
    admission.enter("Recommend", None)
    admission.enter("Recommend", 0.05)


def test_hints_have_an_end(admission: Admission) -> None:
    """Nobody is told to come back in an hour."""
    admission.enter("UpsertItems", None)
    admission.leave("UpsertItems", 3600.0)
    admission.enter("UpsertItems", None)
    admission.enter("UpsertItems", None)
    with pytest.raises(OverloadedError) as caught:
        admission.enter("UpsertItems", None)
    assert caught.value.retry_after_ms == 10_000


def test_streams_have_places_of_their_own(admission: Admission, monkeypatch: pytest.MonkeyPatch) -> None:
    """They take none from calls."""
    monkeypatch.setattr(module, "MAX_STREAMS", 1)
    admission.open_stream()
    with pytest.raises(OverloadedError, match="1 streams"):
        admission.open_stream()
    assert admission.in_flight == 0
    admission.close_stream()
    admission.open_stream()
