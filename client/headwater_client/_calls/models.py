"""The calls of ModelService."""

from __future__ import annotations

from headwater.v1 import model_service_pb2 as pb
from headwater_client._calls.core import Call, as_is, call, method

_SERVICE = "ModelService"
LIST_GENERATIONS = method(
    _SERVICE, "ListGenerations", pb.ListGenerationsRequest, pb.ListGenerationsResponse, timeout_s=10
)
GET_GENERATION = method(_SERVICE, "GetGeneration", pb.GetGenerationRequest, pb.GetGenerationResponse, timeout_s=5)
# with expected_generation a repetition would be refused although the first one was done
SET_LABEL = method(_SERVICE, "SetLabel", pb.SetLabelRequest, pb.SetLabelResponse, timeout_s=10, idempotent=False)
# a repetition would go back one generation more
ROLLBACK = method(_SERVICE, "Rollback", pb.RollbackRequest, pb.RollbackResponse, timeout_s=10, idempotent=False)
RELOAD = method(_SERVICE, "Reload", pb.ReloadRequest, pb.ReloadResponse, timeout_s=120)


def list_generations(
    *, page_size: int = 0, page_token: str = "", timeout_s: float | None = None
) -> Call[pb.ListGenerationsResponse]:
    """Lists the published generations, newest first.

    Args:
        page_size: how many; 0 means 100, at most 1,000.
        page_token: the next_page_token of the page before.
        timeout_s: the deadline. Default 10 s.

    Raises:
        RpcError: the call failed.
    """
    request = pb.ListGenerationsRequest(page_size=page_size, page_token=page_token)
    return call(LIST_GENERATIONS, request, as_is, timeout_s)


def get_generation(number: int = 0, *, timeout_s: float | None = None) -> Call[pb.Generation]:
    """Gets one generation.

    Args:
        number: its number; 0 means the one that the server serves under `stable`.
        timeout_s: the deadline. Default 5 s.

    Raises:
        NotFoundError: there is none of that number.
        RpcError: any other failure of the call.
    """
    request = pb.GetGenerationRequest(number=number)
    return call(GET_GENERATION, request, lambda response: response.generation, timeout_s)


def set_label(
    label: str, generation: int, *, expected_generation: int | None = None, timeout_s: float | None = None
) -> Call[int]:
    """Points a label at a generation and gives the one that it named before, 0 for none.

    Args:
        label: `stable` is what `recommend` answers from.
        generation: the generation to name.
        expected_generation: only if the label names this one now.
        timeout_s: the deadline. Default 10 s.

    Raises:
        NotFoundError: there is no such generation.
        FailedPreconditionError: the label names another generation than expected.
        RpcError: any other failure of the call.
    """
    request = pb.SetLabelRequest(label=label, generation=generation, expected_generation=expected_generation)
    return call(SET_LABEL, request, lambda response: response.previous_generation, timeout_s)


def rollback(label: str = "", *, timeout_s: float | None = None) -> Call[pb.RollbackResponse]:
    """Points a label back at the generation before the one it names.

    Args:
        label: which label. Default `stable`.
        timeout_s: the deadline. Default 10 s.

    Raises:
        RpcError: the call failed.
    """
    return call(ROLLBACK, pb.RollbackRequest(label=label), as_is, timeout_s)


def reload(*, timeout_s: float | None = None) -> Call[pb.ReloadResponse]:
    """Makes the server that answers look at the labels and load what they name, now.

    Args:
        timeout_s: the deadline. Default 120 s.

    Raises:
        RpcError: the call failed.
    """
    return call(RELOAD, pb.ReloadRequest(), as_is, timeout_s)
