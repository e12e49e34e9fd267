"""What training resumes from beside the checkpoint."""

from __future__ import annotations

import pytest

from headwater_core.co_visits import Blend
from headwater_core.errors import ArtifactError
from headwater_updater.blend_search import BlendSearch
from headwater_updater.gate import Gate, Reference
from headwater_updater.pacing import Pacing
from headwater_updater.prequential import Prequential, ScoredTarget
from headwater_updater.replay import ReplayBuffer
from headwater_updater.session_state import REPLAY, SESSION, SessionState
from headwater_updater.watch import Watch


def state() -> SessionState:
    replay, prequential = ReplayBuffer(10), Prequential(5)
    replay.add(range(1, 30))
    prequential.add([ScoredTarget(1, 3, True, False), ScoredTarget(2, 0, False, True)])
    search = BlendSearch(Blend(strength=0.6, trend_strength=0.3), with_repeats=False)
    gate = Gate()
    gate.take_in([Reference(3, 1.5)])
    pacing = Pacing(2)
    pacing.foresaw([ScoredTarget(1, 3, True, False, 2.5)])
    pacing.arrived(3, 5_000_000)
    watch = Watch(0.05)
    watch.begin(4, is_canary=True)
    watch.test.add([(1.0, 0.5)])
    return SessionState(replay, prequential, search, gate, pacing, watch, erasure=7)


def test_the_state_comes_back_as_it_was() -> None:
    """Replay draws on as if nothing had happened, the rolling metrics go on, no erasure is followed twice."""
    before = state()
    after = SessionState.load(before.files(), 2)
    assert after.files() == before.files()
    assert after.erasure == 7
    assert after.prequential.metrics() == before.prequential.metrics()
    assert after.replay.sample(5) == before.replay.sample(5)


@pytest.mark.parametrize("name", [REPLAY, SESSION])
@pytest.mark.parametrize("content", [None, b"", b"{}", b"[]", b"\xff\xfe", b'{"schema_version": 3}'])
def test_damaged_state_is_an_error(name: str, content: bytes | None) -> None:
    """A missing, damaged or foreign file is reported, not taken for an empty state."""
    files = state().files()
    if content is None:
        del files[name]
    else:
        files[name] = content
    with pytest.raises(ArtifactError):
        SessionState.load(files, 1)
