"""A small but real installation: an SQLite file, an artifact store, a generation with towers, and servers over them.

Everything is real but the size: the text encoder is a BERT of one layer over a few dozen words, made here, so that it
loads in milliseconds; the towers have seeded random weights. Items of one topic share words, so they lie together.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import grpc
import numpy as np
import pytest
import torch

from headwater.v1.catalog_service_pb2_grpc import CatalogServiceStub
from headwater.v1.event_service_pb2_grpc import EventServiceStub
from headwater.v1.model_service_pb2_grpc import ModelServiceStub
from headwater.v1.recommendation_service_pb2_grpc import RecommendationServiceStub
from headwater.v1.user_service_pb2_grpc import UserServiceStub
from headwater_core import item_features
from headwater_core.artifact_store import ArtifactStore
from headwater_core.catalogue import Catalogue, Item
from headwater_core.co_visit_files import SuccessorList, SuccessorLists
from headwater_core.database import Database
from headwater_core.events import BUILT_IN_EVENT_TYPES
from headwater_core.features import FeatureStore
from headwater_core.indexes import IndexKind
from headwater_core.manifest import (
    CO_VISITS,
    ITEM_TOWER,
    JOINT_HEADS,
    USER_TOWER,
    FileEntry,
    Manifest,
    index_file,
    items_file,
)
from headwater_core.ranker import Ranker
from headwater_core.registry import GenerationRecord, GenerationRegistry
from headwater_core.shards import Shard
from headwater_core.text import CachedTextEncoder, TextEncoder
from headwater_core.towers import ItemFeatureTower, JointHeads, TowerConfig, UserTower, save_state
from headwater_server.server import HeadwaterServer
from headwater_server.settings import ServerSettings

if TYPE_CHECKING:
    from headwater.v1.catalog_service_pb2_grpc import CatalogServiceAsyncStub
    from headwater.v1.event_service_pb2_grpc import EventServiceAsyncStub
    from headwater.v1.model_service_pb2_grpc import ModelServiceAsyncStub
    from headwater.v1.recommendation_service_pb2_grpc import RecommendationServiceAsyncStub
    from headwater.v1.user_service_pb2_grpc import UserServiceAsyncStub

TOPICS = {
    "space": "space ship star robot alien laser planet orbit",
    "love": "love kiss heart wedding letter rose summer dance",
    "crime": "crime murder detective clue knife night police alibi",
}
ITEMS_PER_TOPIC = 20
_CALL_DEADLINE = json.dumps({"methodConfig": [{"name": [{}], "timeout": "60s"}]})
_PUBLISH_TIME_US = 1_700_000_000_000_000
_SHARPNESS = 25.0
"""Scales the item tower, so that a history's last items outweigh the random parts of the user tower."""
_CO_VISIT_STRENGTH = 100.0
"""Enough to come before any vector."""


class Publish(Protocol):
    """Publishes a generation of all items in the catalogue; returns its number.

    `follows`: item → what users met after it, if anything.
    """

    def __call__(
        self,
        settings: ServerSettings,
        *,
        seed: int = 1,
        label: str = "stable",
        follows: Mapping[str, Sequence[str]] | None = None,
        ranker: Ranker | None = None,
    ) -> int: ...


class MakeInstallation(Protocol):
    """Copies the prepared installation below a folder: items and a generation, or an empty one."""

    def __call__(self, folder: Path, *, is_empty: bool = False) -> ServerSettings: ...


class StartServer(Protocol):
    """Starts a server over an installation; it is stopped at the test's end."""

    async def __call__(self, settings: ServerSettings, **changes: object) -> HeadwaterServer: ...


@pytest.fixture(scope="session")
def text_encoder_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A one-layer BERT over the topics' words; other words are all alike to it."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.normalizers import Lowercase
    from tokenizers.pre_tokenizers import Whitespace
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast
    from transformers.utils import logging

    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    folder = tmp_path_factory.mktemp("text-encoder")
    words = ["[PAD]", "[UNK]", *" ".join(TOPICS.values()).split()]
    tokenizer = Tokenizer(WordLevel({word: index for index, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.normalizer = Lowercase()
    tokenizer.pre_tokenizer = Whitespace()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]", pad_token="[PAD]")  # type: ignore[no-untyped-call]
    fast.save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(words), hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32
    )
    model = BertModel(config)
    with torch.no_grad():  # what all texts share would drown what tells them apart
        model.embeddings.position_embeddings.weight.zero_()
        model.embeddings.token_type_embeddings.weight.zero_()
    model.save_pretrained(folder)
    return folder


def _items() -> list[Item]:
    """`space-00` … `crime-19`: two words of their topic and its name, again and again; the topic is their category."""
    items: list[Item] = []
    for topic, text in TOPICS.items():
        words = text.split()
        for number in range(ITEMS_PER_TOPIC):
            title = " ".join(words[(number * step + step) % len(words)] for step in (1, 3))
            attributes = {"shelf": "new" if number % 2 else "old"}
            items.append(Item(f"{topic}-{number:02}", title, f"{topic} " * 6, (topic,), attributes))
    return items


def _settings(folder: Path, text_encoder_path: Path) -> ServerSettings:
    return ServerSettings(
        port=0,
        metrics_port=0,
        database_url=f"sqlite:///{folder / 'database' / 'headwater.db'}",
        store_url=str(folder / "artifacts"),
        text_encoder_path=str(text_encoder_path),
        drain_s=0.0,
        drain_delay_s=0.0,
    )


@pytest.fixture(scope="session")
def publish() -> Publish:
    """Publishes as the updater does: blobs, manifest, record, label."""

    def publish(
        settings: ServerSettings,
        *,
        seed: int = 1,
        label: str = "stable",
        follows: Mapping[str, Sequence[str]] | None = None,
        ranker: Ranker | None = None,
    ) -> int:
        database = Database(settings.database_url)
        try:
            return _publish(database, settings, seed, label, follows or {}, ranker or Ranker())
        finally:
            database.close()

    return publish


def _publish(
    database: Database,
    settings: ServerSettings,
    seed: int,
    label: str,
    follows: Mapping[str, Sequence[str]],
    ranker: Ranker,
) -> int:
    registry, store = GenerationRegistry(database), ArtifactStore(settings.store_url)
    catalogue, features = Catalogue(database), FeatureStore(database)
    items = catalogue.list("", 10_000)
    encoder = CachedTextEncoder(TextEncoder(settings.text_encoder_path), features)
    vector_dimension = catalogue.embedding_length() or 0
    text_features = encoder.features([item.text() for item in items])
    joined = item_features.join(text_features, [item.embedding for item in items], vector_dimension)
    torch.manual_seed(seed)
    names = tuple(sorted(BUILT_IN_EVENT_TYPES))
    config = TowerConfig(
        dimension=16,
        n_layers=1,
        n_interests=2,
        history_length=50,
        text_dimension=encoder.dimension,
        vector_dimension=vector_dimension,
        event_types=names,
        value_mean=tuple({"purchase": 80.0, "rating": 3.5}.get(name, 0.0) for name in names),
        value_std=(1.0,) * len(names),
        value_type="rating",
    )
    item_tower = ItemFeatureTower(config)
    with torch.no_grad():
        item_tower.projection.weight.mul_(_SHARPNESS)
        vectors = item_tower(torch.from_numpy(joined.astype(np.float32))).numpy()
    number = registry.allocate()
    files = {
        name: store.put_blob(save_state(module))
        for name, module in (
            (USER_TOWER, UserTower(config)),
            (ITEM_TOWER, item_tower),
            (JOINT_HEADS, JointHeads(config)),
        )
    }
    shards: list[str] = []
    if items:
        shards.append("shards/0000")
        files |= _save_shard(store, [item.item_id for item in items], vectors, shards[0])
    if follows:
        files[CO_VISITS] = _save_co_visits(store, follows)
    manifest = Manifest(
        number=number,
        parent=registry.labels().get(label, 0),
        full=True,
        publish_time_us=_PUBLISH_TIME_US + number,
        watermark=0,
        catalogue_revision=catalogue.revision(),
        dimension=config.dimension,
        item_count=len(items),
        text_encoder=encoder.id,
        tower_config=config.to_dict(),
        files=files,
        shards=tuple(shards),
        co_visits=CO_VISITS if follows else None,
        blend={"strength": _CO_VISIT_STRENGTH} if follows else {},
        ranker=ranker.to_dict(),
        metrics={"prequential_hr_at_10": 0.25},
    )
    store.write_manifest(number, manifest)
    copied = manifest.model_dump(include=GenerationRecord.__dataclass_fields__.keys() - {"total_bytes"})
    registry.record(GenerationRecord(total_bytes=manifest.total_bytes, **copied))
    registry.set_label(label, number)
    return number


def _save_shard(store: ArtifactStore, item_ids: Sequence[str], vectors: np.ndarray, name: str) -> dict[str, FileEntry]:
    with tempfile.TemporaryDirectory() as folder:
        index_path, items_path = Shard.build(item_ids, vectors, IndexKind.FLAT).save(Path(folder), name)
        return {index_file(name): store.put_blob(index_path), items_file(name): store.put_blob(items_path)}


def _save_co_visits(store: ArtifactStore, follows: Mapping[str, Sequence[str]]) -> FileEntry:
    ones = ((item_id, named, np.ones(len(named), np.float32)) for item_id, named in follows.items())
    lists = SuccessorLists.empty().updated(SuccessorList(*each) for each in ones)
    with tempfile.TemporaryDirectory() as folder:
        return store.put_blob(lists.save(Path(folder, CO_VISITS)))


def prepare(settings: ServerSettings, publish: Publish | None) -> None:
    """Fill an empty database and store. Args: publish: publishes a generation of the items; None: there are none."""
    database = Database(settings.database_url)
    database.migrate()
    if publish is not None:
        Catalogue(database).upsert(_items(), None, _PUBLISH_TIME_US)
        publish(settings)
    database.close()


@pytest.fixture(scope="session")
def make_installation(
    tmp_path_factory: pytest.TempPathFactory, text_encoder_path: Path, publish: Publish
) -> MakeInstallation:
    """Two installations are prepared once; every test works on its own copy of one."""
    templates = {is_empty: tmp_path_factory.mktemp("installation") for is_empty in (True, False)}
    for is_empty, template in templates.items():
        (template / "artifacts").mkdir()
        prepare(_settings(template, text_encoder_path), None if is_empty else publish)

    def copy(folder: Path, *, is_empty: bool = False) -> ServerSettings:
        shutil.copytree(templates[is_empty], folder / "installation")
        return _settings(folder / "installation", text_encoder_path)

    return copy


@pytest.fixture
def settings(tmp_path: Path, make_installation: MakeInstallation) -> ServerSettings:
    """An installation with 60 items and generation 1 under `stable`."""
    return make_installation(tmp_path)


@pytest.fixture
def empty_settings(tmp_path: Path, make_installation: MakeInstallation) -> ServerSettings:
    """An installation without items and generations."""
    return make_installation(tmp_path / "empty", is_empty=True)


@pytest.fixture
def history_limit_s() -> float:
    """How long an answer waits for its history: a machine that stands still for a moment is no fault."""
    return 60.0


@pytest.fixture
async def start_server(history_limit_s: float) -> AsyncIterator[StartServer]:
    """Starts servers in this process; all are stopped at the end."""
    servers: list[HeadwaterServer] = []

    async def start(settings: ServerSettings, **changes: object) -> HeadwaterServer:
        server = HeadwaterServer(settings.model_copy(update=changes))
        server.rooms.recommender._state_limit_s = history_limit_s
        # Nor are sources left out of answers because they took long.
        book = server.rooms.strategies
        book.built_in = book.built_in.model_copy(update={"budget_ms": 10_000})
        book.replace(())
        await asyncio.wait_for(server.start(), 60)
        servers.append(server)
        return server

    yield start
    for server in servers:
        await asyncio.wait_for(server.stop(), 60)


@pytest.fixture(scope="session")
def open_channel() -> Callable[[HeadwaterServer], grpc.aio.Channel]:
    """Makes channels on which every call has a deadline; the caller closes them."""

    def open_channel(server: HeadwaterServer) -> grpc.aio.Channel:
        options = [
            ("grpc.service_config", _CALL_DEADLINE),
            ("grpc.max_send_message_length", -1),
            ("grpc.use_local_subchannel_pool", 1),
        ]
        return grpc.aio.insecure_channel(f"127.0.0.1:{server.port}", options=options)

    return open_channel


@pytest.fixture
async def connect(
    open_channel: Callable[[HeadwaterServer], grpc.aio.Channel],
) -> AsyncIterator[Callable[[HeadwaterServer], grpc.aio.Channel]]:
    """Connects to servers; every channel is closed at the end, before the servers stop."""
    channels: list[grpc.aio.Channel] = []

    def connect(server: HeadwaterServer) -> grpc.aio.Channel:
        channels.append(open_channel(server))
        return channels[-1]

    yield connect
    for channel in channels:
        await channel.close()


@pytest.fixture
async def server(start_server: StartServer, settings: ServerSettings) -> HeadwaterServer:
    """A server over the prepared installation."""
    return await start_server(settings)


@pytest.fixture
def channel(server: HeadwaterServer, connect: Callable[[HeadwaterServer], grpc.aio.Channel]) -> grpc.aio.Channel:
    """A connection to that server."""
    return connect(server)


@pytest.fixture
def events(channel: grpc.aio.Channel) -> EventServiceAsyncStub:
    return EventServiceStub(channel)


@pytest.fixture
def recommendations(channel: grpc.aio.Channel) -> RecommendationServiceAsyncStub:
    return RecommendationServiceStub(channel)


@pytest.fixture
def catalog(channel: grpc.aio.Channel) -> CatalogServiceAsyncStub:
    return CatalogServiceStub(channel)


@pytest.fixture
def users(channel: grpc.aio.Channel) -> UserServiceAsyncStub:
    return UserServiceStub(channel)


@pytest.fixture
def models(channel: grpc.aio.Channel) -> ModelServiceAsyncStub:
    return ModelServiceStub(channel)
