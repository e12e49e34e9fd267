"""The table of every unary method that the clients call."""

from __future__ import annotations

from typing import Any

from headwater_client._calls import catalog, events, experiments, health, models, recommendations, strategies, users
from headwater_client._calls.core import Method

METHODS: tuple[Method[Any, Any], ...] = tuple(
    value
    for module in (recommendations, events, catalog, users, models, strategies, experiments, health)
    for value in vars(module).values()
    if isinstance(value, Method)
)
