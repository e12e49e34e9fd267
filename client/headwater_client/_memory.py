"""Read your writes without carrying tokens: the client remembers the last one of each subject."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Any

from headwater.v1.event_service_pb2 import WriteEventsRequest
from headwater.v1.recommendation_service_pb2 import (
    BatchRecommendRequest,
    EmbedUserRequest,
    RecommendRequest,
    ScoreItemsRequest,
    SearchItemsRequest,
)
from headwater_client._results import WriteResult


class TokenMemory:
    """The consistency token of each subject's last write through this client; forgets the longest unused."""

    def __init__(self, capacity: int = 10_000) -> None:
        """Args: capacity: how many subjects are remembered."""
        self._capacity = capacity
        self._tokens: OrderedDict[tuple[str, str], str] = OrderedDict()
        self._lock = threading.Lock()

    def apply(self, request: Any) -> None:
        """Fill in `min_consistency_token` where the request asks for a remembered subject and names no token."""
        if isinstance(request, BatchRecommendRequest):
            for one in request.requests:
                self.apply(one)
            return
        if not isinstance(request, RecommendRequest | ScoreItemsRequest | EmbedUserRequest | SearchItemsRequest):
            return
        if not request.min_consistency_token:
            request.min_consistency_token = self._find(request.user_id, request.visitor_id)

    def remember(self, request: Any, result: Any) -> None:
        """Keep the token of a write for every subject of its events."""
        if not isinstance(request, WriteEventsRequest) or not isinstance(result, WriteResult):
            return
        if not result.consistency_token:
            return
        with self._lock:
            for event in request.events:
                for subject in (("user", event.user_id), ("visitor", event.visitor_id)):
                    if subject[1]:
                        self._tokens[subject] = result.consistency_token
                        self._tokens.move_to_end(subject)
            while len(self._tokens) > self._capacity:
                self._tokens.popitem(last=False)

    def _find(self, user_id: str, visitor_id: str) -> str:
        subject = ("user", user_id) if user_id else ("visitor", visitor_id)
        with self._lock:
            token = self._tokens.get(subject, "")
            if token:
                self._tokens.move_to_end(subject)
            return token
