"""What Prometheus reads of an updater."""

from __future__ import annotations

from collections.abc import Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_SECONDS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)


class UpdaterMetrics:
    """The metrics of one updater, in a registry of their own."""

    def __init__(self) -> None:
        """All at zero."""
        self.registry = CollectorRegistry()
        self.leading = self._gauge("leading", "1 while this updater holds the lease")
        self.head = self._gauge("log_head", "Highest position of the feedback log")
        self.offset = self._gauge("log_offset", "Highest position read and learned")
        self.watermark = self._gauge("watermark", "Highest position learned and published")
        self.lag = self._gauge("lag_events", "Positions between the log's head and the offset")
        self.generation = self._gauge("generation", "The last generation published or resumed from")
        self.items = self._gauge("items", "Items that can be retrieved from that generation")
        self.items_waiting = self._gauge("items_waiting", "Items new or changed in the catalogue and not learned yet")
        self.learned = self._counter("events_learned", "Events learned from")
        self.rejected = self._counter("events_rejected", "Events that cleaning refused", ("rule",))
        self.refused = self._counter("candidates_refused", "Candidates that the gate kept from being published")
        self.taken_back = self._counter("generations_taken_back", "Times that `stable` went back, or a canary went")
        self.promoted = self._counter("canaries_promoted", "Canaries that came to serve all users")
        self.published = self._counter("generations_published", "Generations published", ("kind",))
        self.failures = self._counter("failures", "Rounds or publications that failed and are tried again", ("kind",))
        self.round_s = self._histogram("round_seconds", "Time to clean, score and learn one batch")
        self.publish_s = self._histogram("publish_seconds", "Time to publish one generation")
        self.freshness_s = self._histogram("freshness_seconds", "From an event's receipt to the label that covers it")
        self.listening = self._gauge("listening", "1 while PostgreSQL's notifications come through")
        self.notifications = self._counter("notifications_heard", "Times that others told of their writes")
        self.prequential = self._gauge("prequential", "Rolling score-then-learn metrics", ("metric",))

    def show_prequential(self, metrics: Mapping[str, float]) -> None:
        """Show the rolling metrics."""
        for name, value in metrics.items():
            self.prequential.labels(name).set(value)

    def _gauge(self, name: str, help_text: str, labels: tuple[str, ...] = ()) -> Gauge:
        return Gauge(f"headwater_updater_{name}", help_text, labels, registry=self.registry)

    def _counter(self, name: str, help_text: str, labels: tuple[str, ...] = ()) -> Counter:
        return Counter(f"headwater_updater_{name}", help_text, labels, registry=self.registry)

    def _histogram(self, name: str, help_text: str) -> Histogram:
        return Histogram(f"headwater_updater_{name}", help_text, registry=self.registry, buckets=_SECONDS)
