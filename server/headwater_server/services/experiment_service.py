"""ExperimentService: administers experiments, and tells what came of what was shown."""

from __future__ import annotations

import math
from typing import Any

import grpc
from google.protobuf.json_format import MessageToDict, ParseDict

from headwater.v1 import experiment_service_pb2 as pb
from headwater.v1 import experiment_service_pb2_grpc as pb_grpc
from headwater_core import outcome_report
from headwater_core.document_store import Version
from headwater_core.errors import InvalidFieldError, NotFoundError
from headwater_core.experiment_statistics import LEVEL, MISMATCH_AT, UserSums, leader, mismatch, rate
from headwater_core.experiments import FIXED, INTERLEAVED, Experiment
from headwater_core.impressions import ImpressionLog
from headwater_core.names import check_name
from headwater_core.outcome_report import GROUPS, OutcomeRow
from headwater_server import convert
from headwater_server.rooms import Rooms

_DAY_US = 86_400_000_000
_NOBODY = UserSums(0, 0.0, 0.0, 0.0, 0.0, 0.0)


class ExperimentService(pb_grpc.ExperimentServiceServicer):
    """See protos/headwater/v1/experiment_service.proto."""

    def __init__(self, rooms: Rooms) -> None:
        """Answer from these rooms."""
        self._rooms = rooms

    async def PutExperiment(  # noqa: N802
        self, request: pb.PutExperimentRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.PutExperimentResponse:
        """Start an experiment, or change how it goes on."""
        check_name(request.name)
        rooms = self._rooms
        try:
            experiment = Experiment.from_dict(MessageToDict(request.experiment, preserving_proto_field_name=True))
            for index, arm in enumerate(experiment.arms):
                try:
                    rooms.strategies.of(arm.strategy)
                except InvalidFieldError as error:
                    raise error.within(f"arms[{index}]") from error
            self._refuse_other_counts(request.name, experiment)
            for name in experiment.rewards:
                if name not in rooms.event_types:
                    raise InvalidFieldError(f"rewards[{name!r}]", "is not a registered event type")
        except InvalidFieldError as error:
            raise error.within("experiment") from error
        expected = request.expected_version if request.HasField("expected_version") else None
        version = await rooms.in_writing(rooms.experiment_store.put, request.name, experiment, expected)
        await rooms.refresh_documents()
        return pb.PutExperimentResponse(version=version)

    async def GetExperiment(  # noqa: N802
        self, request: pb.GetExperimentRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.GetExperimentResponse:
        """Tell how an experiment stands."""
        rooms = self._rooms
        stored = await rooms.in_database(rooms.experiment_store.all)
        found = next((each for each in stored if each.name == request.name), None)
        if found is None or found.content is None:
            raise NotFoundError(f"name: no experiment {request.name!r}")
        if found.content.allocation == FIXED:
            return await self._fixed(found, found.content)
        return await self._learning(found, found.content)

    async def ListExperiments(  # noqa: N802
        self, request: pb.ListExperimentsRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.ListExperimentsResponse:
        """List the experiments that run."""
        stored = await self._rooms.in_database(self._rooms.experiment_store.all)
        return pb.ListExperimentsResponse(experiments=[_message(each) for each in stored])

    async def DeleteExperiment(  # noqa: N802
        self, request: pb.DeleteExperimentRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.DeleteExperimentResponse:
        """End an experiment."""
        rooms = self._rooms
        check_name(request.name)
        version = await rooms.in_writing(rooms.experiment_store.delete, request.name)
        await rooms.refresh_documents()
        await rooms.in_writing(rooms.tallies.forget, request.name)
        return pb.DeleteExperimentResponse(version=version)

    async def GetOutcomes(  # noqa: N802
        self, request: pb.GetOutcomesRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.GetOutcomesResponse:
        """Add up what was shown and what came of it."""
        rooms = self._rooms
        group_by = request.group_by or GROUPS[0]
        if group_by not in GROUPS:
            raise InvalidFieldError("group_by", f"is {group_by!r}; must be one of {', '.join(GROUPS)}")
        now_us = rooms.now_us()
        end_us = convert.to_time_us("end_time", request.end_time) if request.HasField("end_time") else now_us
        start_us = end_us - _DAY_US
        if request.HasField("start_time"):
            start_us = convert.to_time_us("start_time", request.start_time)
        if start_us >= end_us:
            raise InvalidFieldError("start_time", "must be before end_time")

        def read() -> list[OutcomeRow]:
            shown = ImpressionLog(rooms.database, rooms.tenant).between(start_us, end_us)
            came = (
                each
                for each in rooms.outcomes.between(start_us, now_us + _DAY_US)
                if start_us <= each.shown_time_us < end_us
            )
            return outcome_report.report(shown, came, group_by)

        return pb.GetOutcomesResponse(
            rows=[
                pb.OutcomeRow(key=row.key, shown=row.shown, events=row.events, reward=row.reward)
                for row in await rooms.in_report(read)
            ]
        )

    def _refuse_other_counts(self, name: str, experiment: Experiment) -> None:
        """Raises: InvalidFieldError: places are to be counted where slates were, or the other way round."""
        running = self._rooms.experiments.experiments.get(name)
        if running is None or (running.allocation == INTERLEAVED) == (experiment.allocation == INTERLEAVED):
            return
        counted = "places" if running.allocation == INTERLEAVED else "slates"
        raise InvalidFieldError("allocation", f"the experiment has counted {counted} so far; delete it first")

    async def _fixed(self, version: Version[Experiment], experiment: Experiment) -> pb.GetExperimentResponse:
        rooms = self._rooms
        users = await rooms.in_database(rooms.tallies.users, version.name)
        totals = {each.arm: each for each in await rooms.in_database(rooms.tallies.of, version.name)}
        sums = [users.get(arm.name, _NOBODY) for arm in experiment.arms]
        rates = [rate(each, LEVEL / len(sums)) for each in sums]
        place = leader(rates)
        evidence = mismatch([each.users for each in sums], [arm.share for arm in experiment.arms])
        response = pb.GetExperimentResponse(
            experiment=_message(version),
            leader="" if place is None else experiment.arms[place].name,
            mismatch_evidence=evidence,
            has_mismatch=evidence >= MISMATCH_AT,
        )
        for arm, theirs, found in zip(experiment.arms, sums, rates, strict=True):
            total = totals.get(arm.name)
            response.arms.add(
                arm=arm.name,
                slates=total.slates if total else 0,
                reward=total.reward if total else 0.0,
                share=arm.share,
                users=theirs.users,
                rate=found.value,
                half_width=found.half_width if math.isfinite(found.half_width) else None,
            )
        return response

    async def _learning(self, version: Version[Experiment], experiment: Experiment) -> pb.GetExperimentResponse:
        rooms = self._rooms
        tallies = await rooms.in_database(rooms.tallies.of, version.name)
        rooms.experiments.learn(version.name, tallies)
        response = pb.GetExperimentResponse(experiment=_message(version))
        known = {(each.segment, each.arm): each for each in tallies}
        for segment in sorted({each.segment for each in tallies}):
            shares = rooms.experiments.shares(version.name, segment)
            for arm, share in zip(experiment.arms, shares, strict=True):
                found = known.get((segment, arm.name))
                recent = found.recent if found else None
                response.arms.add(
                    arm=arm.name,
                    segment=segment,
                    slates=found.slates if found else 0,
                    reward=found.reward if found else 0.0,
                    share=share,
                    rate=recent.reward / recent.slates if recent and recent.slates else 0.0,
                )
        return response


def _message(version: Version[Experiment]) -> pb.ExperimentVersion:
    message = pb.ExperimentVersion(name=version.name, version=version.number)
    message.create_time.CopyFrom(convert.from_time_us(version.create_time_us))
    if version.content is not None:
        ParseDict(version.content.to_dict(), message.experiment)
    return message
