"""What an earlier release wrote is served and learned from by this one, without a step of the operator's."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from headwater_client import Client, event
from tests.e2e.conftest import DEADLINE_S, ENVIRONMENT, wait_for, wait_until_serving

RELEASES = sorted((Path(__file__).parents[1] / "data").glob("release_*"))

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]


@pytest.fixture(params=RELEASES, ids=lambda folder: str(folder.name))
def release(request: pytest.FixtureRequest) -> Path:
    """What a release left behind: `installation.tar.xz`, and in `answers.json` what it said."""
    return Path(request.param)


@pytest.fixture
def installation(release: Path, tmp_path: Path, installation_class: Any) -> Iterator[Any]:
    """This release's processes on that release's data, the server started."""
    with tarfile.open(release / "installation.tar.xz") as archive:
        archive.extractall(tmp_path, filter="data")
    with installation_class(tmp_path, ENVIRONMENT) as installation:
        installation.start_server()
        yield installation


def test_an_upgraded_installation_answers_as_before_and_learns_on(release: Path, installation: Any) -> None:
    """The same events at the same positions, the same generation, the same slates, the documents; then the updater goes
    on from the old checkpoint, and what it publishes serves."""
    told = json.loads((release / "answers.json").read_text())
    with Client(installation.address, timeout_s=DEADLINE_S) as client:
        wait_until_serving(client)
        stored = {each.event.event_id: each.log_position for each in client.list_events(page_size=1000).events}
        assert stored == told["events"]
        for user_id, item_ids in told["answers"].items():
            answer = client.recommend(user_id=user_id, page_size=20)
            assert (answer.generation, answer.item_ids) == (told["generation"], item_ids), user_id
        assert "love-14" not in client.recommend(page_size=100).item_ids  # it was hidden
        assert client.recommend(user_id="user-1", strategy="calm").strategy == "calm/1"
        assert client.get_experiment("spring").experiment.name == "spring"
        linked = client.list_events(user_id="user-1").events
        assert "visitor-1" in {each.event.visitor_id for each in linked}
        assert not client.list_events(user_id="erased").events

        installation.start_updater()
        newest = max(stored.values())
        client.write(
            *[event("like", user_id=f"user-{user}", item_id=f"space-{user}") for user in range(10)]
        ).raise_for_refused()
        wait_for(
            lambda: client.recommend(user_id="user-1").watermark >= newest + 10, "what was written after to be served"
        )
        assert client.recommend(user_id="user-1").generation > told["generation"]
