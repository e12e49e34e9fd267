"""The updater's metrics, as Prometheus reads them."""

from __future__ import annotations

import urllib.request

from headwater_core.metrics_server import MetricsServer
from headwater_updater.metrics import UpdaterMetrics


def test_metrics_are_served_over_http() -> None:
    """On a free port, until closed, in the exposition format."""
    metrics = UpdaterMetrics()
    metrics.offset.set(7)
    metrics.rejected.labels("robot").inc(3)
    metrics.show_prequential({"prequential_hr_at_10": 0.25})
    server = MetricsServer(metrics.registry, 0)
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{server.port}/metrics", timeout=10) as answer:
            text = answer.read().decode()
    finally:
        server.close()
    assert "headwater_updater_log_offset 7.0" in text
    assert 'headwater_updater_events_rejected_total{rule="robot"} 3.0' in text
    assert 'headwater_updater_prequential{metric="prequential_hr_at_10"} 0.25' in text


def test_two_updaters_in_one_process_do_not_share_metrics() -> None:
    """Each has a registry of its own."""
    first, second = UpdaterMetrics(), UpdaterMetrics()
    first.offset.set(1)
    assert second.registry.get_sample_value("headwater_updater_log_offset") == 0
