"""The fake server's answers: one plain function per method of the contract, from a request to a response."""

from __future__ import annotations

from headwater_client.testing._answers import catalog, events, experiments, models, recommendations, strategies, users
from headwater_client.testing._answers.core import Answers, Refusal

__all__ = ["ANSWERS", "Refusal"]

ANSWERS: Answers = {
    **events.ANSWERS,
    **recommendations.ANSWERS,
    **catalog.ANSWERS,
    **users.ANSWERS,
    **models.ANSWERS,
    **strategies.ANSWERS,
    **experiments.ANSWERS,
}
"""By the method's path."""
