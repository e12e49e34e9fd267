"""What an operator watches, as Prometheus metrics. No label ever holds an id of a user or an item."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Summary

_LAST_PLACE = 10
"""Places from here on are counted together."""
_LATENCY_BUCKETS_S = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)


class ServerMetrics:
    """The metrics of one server, in a registry of their own so that several servers fit in one process."""

    def __init__(self) -> None:
        """Register every metric."""
        self._shown: dict[tuple[str, str, int], Counter] = {}
        self.registry = CollectorRegistry()
        self.calls = Counter(
            "headwater_calls", "Calls answered, by method and status.", ["method", "code"], registry=self.registry
        )
        self.call_seconds = Histogram(
            "headwater_call_seconds",
            "Time to answer a call; streams are not counted.",
            ["method"],
            buckets=_LATENCY_BUCKETS_S,
            registry=self.registry,
        )
        self.stage_seconds = Summary(
            "headwater_stage_seconds",
            "Time of each stage of a call; those of a batch's requests add up.",
            ["method", "stage"],
            registry=self.registry,
        )
        self.in_flight = Gauge("headwater_calls_in_flight", "Calls being answered now.", registry=self.registry)
        self.streams = Gauge("headwater_streams_open", "Streams open now.", registry=self.registry)
        self.events = Counter("headwater_events", "Events received, by outcome.", ["outcome"], registry=self.registry)
        self.degraded = Counter(
            "headwater_degraded_answers", "Answers with a part missing, by part.", ["part"], registry=self.registry
        )
        self.database_away = Gauge(
            "headwater_database_away", "1 while the database cannot be reached.", registry=self.registry
        )
        self.source_seconds = Histogram(
            "headwater_source_seconds",
            "Time that a source took to propose items.",
            ["source"],
            buckets=_LATENCY_BUCKETS_S,
            registry=self.registry,
        )
        self.sources_left_out = Counter(
            "headwater_sources_left_out",
            "Times that a source was left out of an answer, and why: failed, slow, overdue.",
            ["source", "why"],
            registry=self.registry,
        )
        self.shown = Counter(
            "headwater_shown_items",
            "Items shown, by strategy, source and place; one that several sources proposed counts for each.",
            ["strategy", "source", "place"],
            registry=self.registry,
        )
        self.outcomes = Counter(
            "headwater_outcomes",
            "Events joined by this server to what was shown; what is divided by the items shown is the rate.",
            ["event_type", "strategy", "source", "place"],
            registry=self.registry,
        )
        self.unmatched = Counter(
            "headwater_outcomes_unmatched",
            "Events with an attribution token that joins nothing, by the reason.",
            ["reason"],
            registry=self.registry,
        )
        self.attribution_lag = Gauge(
            "headwater_attribution_lag_events",
            "Positions between the log's head and where it is joined to what was shown; of the first worker.",
            registry=self.registry,
        )
        self.slates = Counter(
            "headwater_experiment_slates",
            "Slates, by experiment and arm; an interleaved one counts for each arm that has a place.",
            ["experiment", "arm"],
            registry=self.registry,
        )
        self.rewards = Counter(
            "headwater_experiment_rewards",
            "Rewards, by experiment and arm.",
            ["experiment", "arm"],
            registry=self.registry,
        )
        self.embedded = Counter("headwater_embedded_histories", "Histories embedded.", registry=self.registry)
        self.read_on = Counter(
            "headwater_histories_read_on", "Histories of which only new events were read.", registry=self.registry
        )
        self.embedding_cache_hits = Counter(
            "headwater_embedding_cache_hits", "Requests answered with a vector kept.", registry=self.registry
        )
        self.slates_kept = Counter(
            "headwater_slates_kept", "Answers given again, since nothing had changed.", registry=self.registry
        )
        self.log_position = Gauge(
            "headwater_log_position", "Log position applied to this server's state.", registry=self.registry
        )
        self.catalogue_revision = Gauge(
            "headwater_catalogue_revision", "Catalogue revision applied.", registry=self.registry
        )
        self.listening = Gauge(
            "headwater_listening",
            "1 while PostgreSQL's notifications come through; else the database is asked more often.",
            registry=self.registry,
        )
        self.notifications = Counter(
            "headwater_notifications_heard",
            "Times that others told of their writes, or that something may have been missed.",
            registry=self.registry,
        )
        self.user_states = Gauge("headwater_user_states", "User histories held in memory.", registry=self.registry)
        self.fresh_items = Gauge(
            "headwater_fresh_items", "Items newer than the serving generation.", registry=self.registry
        )
        self.generation = Gauge(
            "headwater_generation", "Generation serving, by label.", ["label"], registry=self.registry
        )
        self.staleness_seconds = Gauge(
            "headwater_staleness_seconds", "Wait of the oldest event not learned by `stable`.", registry=self.registry
        )
        self.swaps = Counter("headwater_swaps", "Generations put into service.", registry=self.registry)
        self.load_failures = Counter(
            "headwater_generation_load_failures", "Generations that could not be loaded.", registry=self.registry
        )
        self.load_seconds = Histogram(
            "headwater_generation_load_seconds", "Time to load, verify and warm a generation.", registry=self.registry
        )
        self.files_refused = Gauge(
            "headwater_files_refused",
            "1 while certificates or tokens have changed to what cannot be used, and the earlier ones are.",
            ["what"],
            registry=self.registry,
        )
        self.certificate_expiry = Gauge(
            "headwater_certificate_expiry_seconds",
            "When the server's certificate ends, seconds since 1970; 0 without one.",
            registry=self.registry,
        )
        self.impressions = Counter(
            "headwater_impressions", "Slates logged, dropped or failed.", ["outcome"], registry=self.registry
        )

    def count_shown(self, strategy: str, place: int, sources: Iterable[str]) -> None:
        """Count one shown item under each of its sources; looking up labels for every item would take its time."""
        for source in sources:
            key = strategy, source, min(place, _LAST_PLACE)
            counter = self._shown.get(key)
            if counter is None:
                counter = self._shown[key] = self.shown.labels(strategy, source, place_label(place))
            counter.inc()


def place_label(place: int) -> str:
    """A place, as metrics tell it."""
    return str(place) if place < _LAST_PLACE else f"{_LAST_PLACE}+"
