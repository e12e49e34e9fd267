"""Whatever is done to the catalogue, in whatever order: every answer of every replica soon agrees with it.

A walk of random upserts, deletions and changes of availability, with queries after every step, is compared with a plain
dictionary. Where the change was written the very next answer agrees; the other replica follows soon.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import grpc
import pytest
from google.protobuf.field_mask_pb2 import FieldMask

from headwater.v1 import catalog_service_pb2 as catalog_pb
from headwater.v1 import event_pb2, item_pb2
from headwater.v1 import recommendation_service_pb2 as pb
from headwater.v1.catalog_service_pb2_grpc import CatalogServiceStub
from headwater.v1.recommendation_service_pb2_grpc import RecommendationServiceStub
from headwater_server.server import HeadwaterServer
from headwater_server.settings import ServerSettings
from tests.integration.conftest import TOPICS

if TYPE_CHECKING:
    from headwater.v1.catalog_service_pb2_grpc import CatalogServiceAsyncStub
    from headwater.v1.recommendation_service_pb2_grpc import RecommendationServiceAsyncStub

STEPS = 60
POOL = [f"walk-{number}" for number in range(12)]
HISTORY = [
    event_pb2.Event(event_type="like", item_id="space-00"),
    event_pb2.Event(event_type="like", item_id="love-01"),
]
PATIENCE_S = 60.0


@dataclass
class Model:
    """What the walk has made of its items: id → (category, whether it is available)."""

    items: dict[str, tuple[str, bool]] = field(default_factory=dict)

    def present(self, category: str) -> set[str]:
        return {item_id for item_id, (theirs, available) in self.items.items() if available and theirs == category}


async def step(chance: random.Random, model: Model, catalogue: CatalogServiceAsyncStub) -> str:
    """One change; what it was."""
    item_id = chance.choice(POOL)
    what = chance.choice(["upsert", "upsert", "upsert many", "delete", "hide", "show", "move"])
    known = item_id in model.items
    if what in {"upsert", "upsert many"}:
        chosen = [item_id] if what == "upsert" else chance.sample(POOL, 4)
        batch = []
        for each in chosen:
            topic = chance.choice(list(TOPICS))
            batch.append(
                item_pb2.Item(
                    item_id=each,
                    title=" ".join(chance.sample(TOPICS[topic].split(), 2)),
                    categories=[f"walk-{topic}"],
                    available=True,
                )
            )
            model.items[each] = (f"walk-{topic}", True)
        answer = await catalogue.UpsertItems(catalog_pb.UpsertItemsRequest(items=batch))
        assert not answer.errors
    elif what == "delete":
        await catalogue.DeleteItems(catalog_pb.DeleteItemsRequest(item_ids=[item_id]))
        model.items.pop(item_id, None)
    elif what in {"hide", "show"} and known:
        request = catalog_pb.SetAvailabilityRequest(item_ids=[item_id], available=what == "show")
        await catalogue.SetAvailability(request)
        model.items[item_id] = (model.items[item_id][0], what == "show")
    elif what == "move" and known:
        topic = chance.choice(list(TOPICS))
        moved = item_pb2.Item(item_id=item_id, categories=[f"walk-{topic}"])
        changed = catalog_pb.UpsertItemsRequest(items=[moved], update_mask=FieldMask(paths=["categories"]))
        assert not (await catalogue.UpsertItems(changed)).errors
        model.items[item_id] = (f"walk-{topic}", model.items[item_id][1])
    return f"{what} {item_id}"


async def disagreement(model: Model, recommendations: RecommendationServiceAsyncStub) -> str:
    """The first answer that does not agree with the model; empty: all do."""
    for category in (f"walk-{topic}" for topic in TOPICS):
        request = pb.RecommendRequest(recent_events=HISTORY, page_size=50, filter=pb.ItemFilter(categories=[category]))
        shown = {each.item_id for each in (await recommendations.Recommend(request)).results}
        if shown != model.present(category):
            return f"Recommend in {category}: {sorted(shown)}, not {sorted(model.present(category))}"
        similar_request = pb.SimilarItemsRequest(
            item_id="space-00", page_size=50, filter=pb.ItemFilter(categories=[category])
        )
        shown = {each.item_id for each in (await recommendations.SimilarItems(similar_request)).results}
        if shown != model.present(category):
            return f"SimilarItems in {category}: {sorted(shown)}, not {sorted(model.present(category))}"
    everywhere = set().union(*(model.present(f"walk-{topic}") for topic in TOPICS))
    scores = await recommendations.ScoreItems(pb.ScoreItemsRequest(recent_events=HISTORY, item_ids=POOL))
    if {each.item_id for each in scores.scores} != everywhere:
        return f"ScoreItems: {sorted(each.item_id for each in scores.scores)}, not {sorted(everywhere)}"
    slate = await recommendations.Recommend(pb.RecommendRequest(recent_events=HISTORY, page_size=100))
    leaked = {each.item_id for each in slate.results if each.item_id in POOL} - everywhere
    return f"Recommend leaks {sorted(leaked)}" if leaked else ""


@pytest.mark.parametrize("seed", range(4))
async def test_answers_follow_the_catalogue(
    settings: ServerSettings,
    start_server: Callable[..., Awaitable[HeadwaterServer]],
    connect: Callable[[HeadwaterServer], grpc.aio.Channel],
    seed: int,
) -> None:
    """On every path, at once where it was written and soon on the other replica."""
    first, second = await start_server(settings), await start_server(settings, tail_interval_ms=20)
    catalogue = CatalogServiceStub(connect(first))
    here, there = RecommendationServiceStub(connect(first)), RecommendationServiceStub(connect(second))
    chance, model, done = random.Random(seed), Model(), []
    for number in range(STEPS):
        done.append(await step(chance, model, catalogue))
        assert not await disagreement(model, here), done
        if number % 5 == 4:
            until = asyncio.get_running_loop().time() + PATIENCE_S
            while (  # noqa: ASYNC110
                problem := await disagreement(model, there)
            ) and asyncio.get_running_loop().time() < until:
                await asyncio.sleep(0.02)
            assert not problem, done
