"""The calls of ExperimentService."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from headwater.v1 import experiment_service_pb2 as pb
from headwater_client._calls.core import Call, as_is, call, method
from headwater_client._messages import message_of, timestamp

_SERVICE = "ExperimentService"
# with expected_version a repetition would be refused although the first one was done
PUT_EXPERIMENT = method(
    _SERVICE, "PutExperiment", pb.PutExperimentRequest, pb.PutExperimentResponse, timeout_s=5, idempotent=False
)
GET_EXPERIMENT = method(_SERVICE, "GetExperiment", pb.GetExperimentRequest, pb.GetExperimentResponse, timeout_s=10)
LIST_EXPERIMENTS = method(
    _SERVICE, "ListExperiments", pb.ListExperimentsRequest, pb.ListExperimentsResponse, timeout_s=5
)
# a repetition would not find what the first one ended
DELETE_EXPERIMENT = method(
    _SERVICE, "DeleteExperiment", pb.DeleteExperimentRequest, pb.DeleteExperimentResponse, timeout_s=5, idempotent=False
)
GET_OUTCOMES = method(_SERVICE, "GetOutcomes", pb.GetOutcomesRequest, pb.GetOutcomesResponse, timeout_s=60)


def put_experiment(
    name: str,
    experiment: pb.Experiment | Mapping[str, Any],
    *,
    expected_version: int | None = None,
    timeout_s: float | None = None,
) -> Call[int]:
    """Starts an experiment, or changes how it goes on, and gives the number of its version.

    Args:
        name: of the experiment.
        experiment: what it is from now on, as a message or as what its JSON says.
        expected_version: only if this is its newest version; 0: only if there never was one.
        timeout_s: the deadline. Default 5 s.

    Raises:
        ValueError: the JSON does not fit the message.
        InvalidArgumentError: it cannot work; the field and the reason are told.
        FailedPreconditionError: its newest version is another one than expected.
        RpcError: any other failure of the call.
    """
    request = pb.PutExperimentRequest(
        name=name,
        experiment=message_of(pb.Experiment, experiment, "experiment"),
        expected_version=expected_version,
    )
    return call(PUT_EXPERIMENT, request, lambda response: response.version, timeout_s)


def get_experiment(name: str, *, timeout_s: float | None = None) -> Call[pb.GetExperimentResponse]:
    """Tells how an experiment stands: its arms' figures, and which one leads.

    Args:
        name: of the experiment.
        timeout_s: the deadline. Default 10 s.

    Raises:
        NotFoundError: there is none of that name.
        RpcError: any other failure of the call.
    """
    return call(GET_EXPERIMENT, pb.GetExperimentRequest(name=name), as_is, timeout_s)


def list_experiments(*, timeout_s: float | None = None) -> Call[list[pb.ExperimentVersion]]:
    """Lists the experiments that run, by name.

    Args:
        timeout_s: the deadline. Default 5 s.

    Raises:
        RpcError: the call failed.
    """
    return call(LIST_EXPERIMENTS, pb.ListExperimentsRequest(), lambda response: list(response.experiments), timeout_s)


def delete_experiment(name: str, *, timeout_s: float | None = None) -> Call[int]:
    """Ends an experiment and gives the number of the version that says so; what it counted is forgotten.

    Args:
        name: of the experiment.
        timeout_s: the deadline. Default 5 s.

    Raises:
        NotFoundError: there is none of that name.
        RpcError: any other failure of the call.
    """
    return call(DELETE_EXPERIMENT, pb.DeleteExperimentRequest(name=name), lambda response: response.version, timeout_s)


def get_outcomes(
    group_by: str = "source",
    *,
    start_time: datetime | None = None,
    end_time: datetime | None = None,
    timeout_s: float | None = None,
) -> Call[list[pb.OutcomeRow]]:
    """Adds up what was shown and what came of it, what was shown most first.

    Args:
        group_by: `source`, `strategy`, `place`, `arm` or `surface`.
        start_time: what was shown from then on. Default: a day before the end.
        end_time: what was shown before then. Default: now.
        timeout_s: the deadline. Default 60 s.

    Raises:
        ValueError: a time has no time zone.
        RpcError: the call failed.
    """
    request = pb.GetOutcomesRequest(group_by=group_by, start_time=timestamp(start_time), end_time=timestamp(end_time))
    return call(GET_OUTCOMES, request, lambda response: list(response.rows), timeout_s)
