"""What both event writers count."""

from __future__ import annotations

import grpc

from headwater_client import ClientClosedError, WriterConfig, WriteResult, event
from headwater_client._results import RefusedEvent
from headwater_client._writer_state import WriterState


def test_what_was_given_up_is_counted_once() -> None:
    """Whatever comes of the batch that was under way then."""
    state = WriterState(WriterConfig(max_batch=1))
    for item_id in ("heat", "up"):
        state.add(event("like", user_id="ada", item_id=item_id), 0.0)
    batch = state.take_batch()
    given_up = state.give_up_all(ClientClosedError("the process ended"))
    assert [failure.event.item_id for failure in given_up] == ["heat", "up"]
    refused = RefusedEvent(0, batch[0].event_id, "item_id", "unknown", grpc.StatusCode.INVALID_ARGUMENT)
    answer = WriteResult(accepted=0, duplicates=0, refused=(refused,), consistency_token="")
    assert state.settle(batch, answer) == state.give_up(batch, ClientClosedError("closed")) == []
    assert (state.taken, state.settled, state.failed, list(state.failures)) == (2, 2, 2, given_up)
