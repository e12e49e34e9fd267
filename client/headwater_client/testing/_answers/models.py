"""The fake's answers of ModelService."""

from __future__ import annotations

import grpc

from headwater.v1 import model_service_pb2 as models
from headwater_client.testing._answers.core import Answers, Refusal, page_of
from headwater_client.testing._state import FakeState


def _described(state: FakeState, number: int) -> models.Generation:
    generation = models.Generation.FromString(state.generations[number].SerializeToString())
    generation.labels.extend(sorted(label for label, past in state.label_history.items() if past[-1] == number))
    serving = number == state.stable().number
    generation.state = models.GENERATION_STATE_SERVING if serving else models.GENERATION_STATE_PUBLISHED
    return generation


def list_generations(state: FakeState, request: models.ListGenerationsRequest) -> models.ListGenerationsResponse:
    rows = [_described(state, number) for number in sorted(state.generations, reverse=True)]
    page, next_page_token = page_of(rows, request.page_size, request.page_token)
    return models.ListGenerationsResponse(generations=page, next_page_token=next_page_token)


def get_generation(state: FakeState, request: models.GetGenerationRequest) -> models.GetGenerationResponse:
    number = request.number or state.stable().number
    if number not in state.generations:
        raise Refusal(grpc.StatusCode.NOT_FOUND, f"number: there is no generation {number}")
    return models.GetGenerationResponse(generation=_described(state, number))


def set_label(state: FakeState, request: models.SetLabelRequest) -> models.SetLabelResponse:
    if request.generation not in state.generations:
        raise Refusal(grpc.StatusCode.NOT_FOUND, f"generation: there is no generation {request.generation}")
    now = state.label_history.get(request.label, [0])[-1]
    if request.HasField("expected_generation") and request.expected_generation != now:
        raise Refusal(grpc.StatusCode.FAILED_PRECONDITION, f"expected_generation: {request.label} names {now}")
    state.label_history.setdefault(request.label, []).append(request.generation)
    return models.SetLabelResponse(previous_generation=now)


def rollback(state: FakeState, request: models.RollbackRequest) -> models.RollbackResponse:
    label = request.label or "stable"
    past = state.label_history.get(label, [])
    if len(past) < 2:
        raise Refusal(grpc.StatusCode.NOT_FOUND, f"label: {label} has no generation to go back to")
    before = past.pop()
    return models.RollbackResponse(generation=past[-1], previous_generation=before)


def reload(state: FakeState, request: models.ReloadRequest) -> models.ReloadResponse:
    return models.ReloadResponse(generation=state.stable().number)


ANSWERS: Answers = {
    "/headwater.v1.ModelService/ListGenerations": list_generations,
    "/headwater.v1.ModelService/GetGeneration": get_generation,
    "/headwater.v1.ModelService/SetLabel": set_label,
    "/headwater.v1.ModelService/Rollback": rollback,
    "/headwater.v1.ModelService/Reload": reload,
}
