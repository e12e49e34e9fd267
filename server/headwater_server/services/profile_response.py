"""A profile as the wire carries it."""

from __future__ import annotations

from headwater.v1 import user_service_pb2 as pb
from headwater_server import convert
from headwater_server.profiles import CATEGORY, Activity, Affinity, Profile


def profile_response(profile: Profile) -> pb.GetProfileResponse:
    """The answer of GetProfile."""
    first_us, last_us = profile.first_event_time_us, profile.last_event_time_us
    return pb.GetProfileResponse(
        interests=[_interest(each) for each in profile.affinities if each.key == CATEGORY],
        attributes=[_attribute(each) for each in profile.affinities if each.key != CATEGORY],
        aversions=[_interest(each) for each in profile.aversions if each.key == CATEGORY],
        attribute_aversions=[_attribute(each) for each in profile.aversions if each.key != CATEGORY],
        event_counts=profile.event_counts,
        activity=None if profile.activity is None else _activity(profile.activity),
        first_event_time=None if first_us is None else convert.from_time_us(first_us),
        last_event_time=None if last_us is None else convert.from_time_us(last_us),
        recent_events=[convert.from_logged_event(logged) for logged in profile.recent_events],
    )


def _interest(affinity: Affinity) -> pb.Interest:
    return pb.Interest(
        category=affinity.value,
        share=affinity.share,
        last_event_time=convert.from_time_us(affinity.last_event_time_us),
        event_count=affinity.event_count,
        strongest_item_ids=affinity.strongest_item_ids,
    )


def _attribute(affinity: Affinity) -> pb.AttributeInterest:
    return pb.AttributeInterest(
        key=affinity.key,
        value=affinity.value,
        share=affinity.share,
        last_event_time=convert.from_time_us(affinity.last_event_time_us),
        event_count=affinity.event_count,
        strongest_item_ids=affinity.strongest_item_ids,
    )


def _activity(activity: Activity) -> pb.Activity:
    return pb.Activity(
        events_last_day=activity.last_day,
        events_last_week=activity.last_week,
        events_last_30_days=activity.last_30_days,
        active_days=activity.active_days,
        sessions=activity.sessions,
        events_by_hour=activity.by_hour,
    )
