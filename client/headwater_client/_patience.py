"""Whether a call that failed is made once more, after gRPC's own tries. No I/O, no clock."""

from __future__ import annotations

from headwater_client._config import RetryConfig
from headwater_client.errors import DeadlineExceededError, RpcError, UnavailableError

_LEAST_S = 0.1
_LONGEST_PAUSE_S = 0.5
"""Before gRPC's next few tries, which cost nobody anything where no server can be reached."""


class Patience:
    """How long one call goes on; every time is of one clock, in seconds."""

    def __init__(self, retry: RetryConfig, timeout_s: float, now_s: float, *, is_patient: bool) -> None:
        """Args: timeout_s: the call's deadline, from now; is_patient: False: gRPC's own tries are all."""
        self._retry = retry
        self._deadline_s = now_s + timeout_s
        self._least_s = min(_LEAST_S, timeout_s)
        self._until_s = now_s + min(timeout_s, retry.patience_s) if is_patient else now_s
        self._pauses = 0
        self._unavailable: UnavailableError | None = None

    def left_s(self, now_s: float) -> float:
        """How long the call may still take: long enough to learn that nobody is there."""
        return max(self._least_s, self._deadline_s - now_s)

    def wait_s(self, now_s: float) -> float:
        """How long a connection may still be waited for."""
        return max(0.0, self._until_s - now_s)

    def pause_s(self, error: RpcError, now_s: float) -> float | None:
        """How long to wait before the call is made again; None: it has failed."""
        if not isinstance(error, UnavailableError) or error.is_final:
            return None
        self._unavailable = error
        pause_s = min(self._retry.initial_backoff_s * 2.0 ** min(self._pauses, 30), _LONGEST_PAUSE_S)
        if error.retry_after_s is not None:
            pause_s = error.retry_after_s
        self._pauses += 1
        return pause_s if now_s + pause_s < self._until_s else None

    def reason(self, error: RpcError) -> RpcError:
        """What the caller is told: rather that nobody was there than that time ran out in waiting for them."""
        if isinstance(error, DeadlineExceededError) and self._unavailable is not None:
            return self._unavailable
        return error
