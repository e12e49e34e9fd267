"""The fake's answers of ExperimentService: experiments are kept, and answer nobody."""

from __future__ import annotations

import grpc

from headwater.v1 import experiment_service_pb2 as experiments
from headwater_client.testing._answers.core import Answers, Refusal, invalid
from headwater_client.testing._state import FakeState


def put_experiment(state: FakeState, request: experiments.PutExperimentRequest) -> experiments.PutExperimentResponse:
    if len(request.experiment.arms) < 2:
        raise invalid("experiment.arms: must have at least 2")
    versions = state.experiment_versions.setdefault(request.name, [])
    if request.HasField("expected_version") and request.expected_version != len(versions):
        raise Refusal(grpc.StatusCode.FAILED_PRECONDITION, f"experiment {request.name!r} is at version {len(versions)}")
    return experiments.PutExperimentResponse(version=_add(state, request.name, request.experiment))


def get_experiment(state: FakeState, request: experiments.GetExperimentRequest) -> experiments.GetExperimentResponse:
    version = _newest(state, request.name)
    arms = [experiments.ArmResult(arm=arm.name, share=arm.share) for arm in version.experiment.arms]
    return experiments.GetExperimentResponse(experiment=version, arms=arms, mismatch_evidence=1.0)


def list_experiments(
    state: FakeState, request: experiments.ListExperimentsRequest
) -> experiments.ListExperimentsResponse:
    newest = (state.experiment_versions[name][-1] for name in sorted(state.experiment_versions))
    return experiments.ListExperimentsResponse(experiments=[each for each in newest if each.HasField("experiment")])


def delete_experiment(
    state: FakeState, request: experiments.DeleteExperimentRequest
) -> experiments.DeleteExperimentResponse:
    _newest(state, request.name)
    return experiments.DeleteExperimentResponse(version=_add(state, request.name, None))


def get_outcomes(state: FakeState, request: experiments.GetOutcomesRequest) -> experiments.GetOutcomesResponse:
    """Every event that brought a token counts; what was shown is not known here."""
    rows: dict[str, experiments.OutcomeRow] = {}
    for stored in state.events:
        if stored.event.attribution_token:
            row = rows.setdefault("popular", experiments.OutcomeRow(key="popular"))
            row.events[stored.event.event_type] += 1
    return experiments.GetOutcomesResponse(rows=rows.values())


def _newest(state: FakeState, name: str) -> experiments.ExperimentVersion:
    versions = state.experiment_versions.get(name)
    if not versions or not versions[-1].HasField("experiment"):
        raise Refusal(grpc.StatusCode.NOT_FOUND, f"name: no experiment {name!r}")
    return versions[-1]


def _add(state: FakeState, name: str, experiment: experiments.Experiment | None) -> int:
    versions = state.experiment_versions.setdefault(name, [])
    versions.append(experiments.ExperimentVersion(name=name, version=len(versions) + 1, experiment=experiment))
    versions[-1].create_time.GetCurrentTime()
    return len(versions)


ANSWERS: Answers = {
    "/headwater.v1.ExperimentService/PutExperiment": put_experiment,
    "/headwater.v1.ExperimentService/GetExperiment": get_experiment,
    "/headwater.v1.ExperimentService/ListExperiments": list_experiments,
    "/headwater.v1.ExperimentService/DeleteExperiment": delete_experiment,
    "/headwater.v1.ExperimentService/GetOutcomes": get_outcomes,
}
