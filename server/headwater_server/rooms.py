"""Everything a service may reach, joined once at start."""

from __future__ import annotations

import asyncio
import functools
import os
import socket
import time
import uuid
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np
import structlog
import torch

from headwater_core import document_store, event_types, experiments, strategies, tallies
from headwater_core.artifact_store import ArtifactStore
from headwater_core.catalogue import Catalogue, ItemChange
from headwater_core.co_visits import REPEAT_EVENTS
from headwater_core.database import Database
from headwater_core.document_store import DocumentStore
from headwater_core.errors import ArtifactError, ConfigurationError, DatabaseUnavailableError, InvalidFieldError
from headwater_core.event_types import EventTypes
from headwater_core.events import BUILT_IN_EVENT_TYPES, EventType, LoggedEvent, Subject, check_event_type
from headwater_core.experiments import FIXED, Experiment, check_disjoint
from headwater_core.features import FeatureStore
from headwater_core.feedback_log import FeedbackLog, subject_hash
from headwater_core.histories import kept_length
from headwater_core.impressions import ImpressionLog
from headwater_core.item_search import ItemSearch
from headwater_core.notifications import Notifications, Topic
from headwater_core.outcomes import OutcomeLog
from headwater_core.recalling import Recollection
from headwater_core.registry import GenerationRegistry
from headwater_core.strategies import Strategy
from headwater_core.tallies import Tallies
from headwater_core.text import CachedTextEncoder, TextEncoder
from headwater_server.attributor import Attributor
from headwater_server.candidate_features import CandidateFeatures
from headwater_server.catalogue_tail import CatalogueTail
from headwater_server.embedder import UserEmbedder
from headwater_server.errors import NotReadyError
from headwater_server.experiment_book import ExperimentBook
from headwater_server.fellows import Fellows
from headwater_server.fresh import Features, FreshPlacer
from headwater_server.group_committer import GroupCommitter
from headwater_server.impression_writer import ImpressionWriter
from headwater_server.log_tail import Backlog, LogTail
from headwater_server.loose_threads import LooseThreads
from headwater_server.metrics import ServerMetrics
from headwater_server.popularity import RecentPopularity
from headwater_server.preloading import Preloaded
from headwater_server.query_features import QueryFeatures
from headwater_server.recommender import Recommender
from headwater_server.reload import Generations
from headwater_server.searcher import Searcher
from headwater_server.serving_generation import ServingGeneration
from headwater_server.settings import ServerSettings
from headwater_server.slate_maker import SlateMaker
from headwater_server.sources.candidate_source import CandidateSource
from headwater_server.sources.context import ContextSource
from headwater_server.sources.fresh import FreshSource
from headwater_server.sources.gathering import Gathering
from headwater_server.sources.personal import BlendSource, CoVisitSource, RepeatSource, TowerSource
from headwater_server.sources.popular import CategorySource, PopularSource
from headwater_server.sources.text import TextSource
from headwater_server.strategy_book import StrategyBook, built_in_strategy
from headwater_server.text_keeper import TextKeeper
from headwater_server.user_states import UserState, UserStates

_WARM_UP_HISTORIES = 64
_POPULARITY_HALF_LIVES = 4
_READING_THREADS = 8
_WRITING_THREADS = 4
_LOOK_LIMIT_S = 5.0
"""A database that does not answer so small a read in this time counts as away."""
_LAST_WRITES_LIMIT_S = 10.0
"""A server that ends does not wait longer for its database."""
_MIRROR_LIMIT_S = 5.0
_COMPUTE_THREADS = 2

Result = TypeVar("Result")
log = structlog.get_logger(__name__)


class Rooms:
    """The parts of one server and the threads they work on."""

    def __init__(
        self, settings: ServerSettings, now_us: Callable[[], int] | None = None, fellows: Fellows | None = None
    ) -> None:
        """Join the parts; nothing is read yet.

        Args:
            settings: this server's.
            now_us: the clock, microseconds since 1970 UTC; the system's by default.
            fellows: the other processes that answer on the same port; None: there are none.
        """
        self.settings = settings
        self._bell = fellows.bell if fellows is not None else None
        preloaded = fellows.preloaded if fellows is not None else Preloaded()
        self._encoders = list(preloaded.encoders)
        self.tenant = settings.tenant
        self.max_ahead_us = int(settings.max_ahead_s * 1_000_000)
        self.now_us = now_us or (lambda: time.time_ns() // 1000)
        self.server_id = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        self.metrics = ServerMetrics()
        self._reading_threads = LooseThreads("reading", _READING_THREADS)
        self._report_thread = LooseThreads("reports")
        self._writing_threads = LooseThreads("writing", _WRITING_THREADS)
        self._compute_threads = ThreadPoolExecutor(
            _COMPUTE_THREADS, "compute", initializer=torch.set_num_threads, initargs=(settings.torch_threads,)
        )
        self._loader_thread = LooseThreads("loader")
        self._text_thread = LooseThreads("text")

        self.database = Database(
            settings.database_url, pool_size=settings.database_pool_size, application="headwater-server"
        )
        self.notifications = Notifications(self.database, self.tenant, fellows.sender if fellows is not None else None)
        self.metrics.listening.set_function(lambda: float(self.notifications.is_listening))
        self.log = FeedbackLog(self.database, self.tenant)
        self.event_type_store = EventTypes(self.database, self.tenant)
        self.event_types: Mapping[str, EventType] = BUILT_IN_EVENT_TYPES
        self.catalogue = Catalogue(self.database, self.tenant)
        self.strategy_store = DocumentStore(self.database, strategies.KIND, Strategy, self.tenant)
        self.registry = GenerationRegistry(self.database, self.tenant)
        self._features = FeatureStore(self.database, self.tenant)
        verified = fellows.verified if fellows is not None else None
        self._store = ArtifactStore(settings.store_url, self.tenant, settings.store_cache_dir, verified)

        self.view = preloaded.view
        self.popularity = RecentPopularity(settings.popularity_half_life_events, known=self.view.items)
        self.backlog = Backlog()
        self.states = UserStates(
            self._load_state,
            lambda: self.event_types,
            history_length=REPEAT_EVENTS,
            capacity=settings.state_capacity,
        )
        self.impression_writer = ImpressionWriter(
            ImpressionLog(self.database, self.tenant), self._in_writing, self.metrics
        )
        self.log_tail = LogTail(self.log, self.in_database, self._apply)
        self.committer = GroupCommitter(self.log, self.in_writing, self.log_tail.committed, self.now_us)
        self.embedder = UserEmbedder(
            self.in_compute,
            self.metrics,
            batch_tokens=settings.batch_tokens,
            memory_bytes=settings.reading_memory_mib << 20,
        )
        self.query_features = QueryFeatures(self._new_text_encoder)
        self._placer = FreshPlacer(self.view, self._stored_features, self.in_compute)
        self.text_keeper = TextKeeper(self.view, self._stored_features, self.in_compute, preloaded.texts)
        self.catalogue_tail = CatalogueTail(self.catalogue, self.view, self.in_database, self._catalogue_changed)
        self.generations = Generations(
            self._store,
            self.registry,
            self.query_features,
            self.metrics,
            run_in_database=self.in_database,
            run_in_loader=functools.partial(self._run, self._loader_thread),
            announce=self.heartbeat,
            prepare=self._prepare,
            canary_share=settings.canary_share,
            shards=preloaded.shards,
        )
        self.experiment_store = DocumentStore(self.database, experiments.KIND, Experiment, self.tenant, check_disjoint)
        self.tallies = Tallies(self.database, self.tenant)
        self.outcomes = OutcomeLog(self.database, self.tenant)
        self.experiments = ExperimentBook()
        self.attributor = Attributor(
            self.outcomes,
            self.experiments,
            self._in_writing,
            self.metrics,
            self.now_us,
            round(settings.attribution_window_s * 1_000_000),
        )
        self.strategies = StrategyBook(built_in_strategy(settings.fresh_every, settings.fresh_every_below))
        sources: tuple[CandidateSource, ...] = (
            BlendSource(),
            TowerSource(),
            CoVisitSource(),
            RepeatSource(),
            PopularSource(self.popularity),
            CategorySource(self.popularity, self.view),
            ContextSource(),
            FreshSource(settings.fresh_top_share),
            TextSource(self.text_keeper),
        )
        self.gathering = Gathering(sources, self.in_compute, self.metrics)
        maker = SlateMaker(
            self.gathering,
            self.view,
            self.text_keeper,
            CandidateFeatures(self.view, self.popularity, lambda: self.event_types),
            event_types=lambda: self.event_types,
            run_in_compute=self.in_compute,
            now_us=self.now_us,
        )
        self.recommender = Recommender(
            self.states,
            self.generations,
            self.embedder,
            self.view,
            maker,
            self.strategies,
            self.experiments,
            event_types=lambda: self.event_types,
            query_features=self.query_features,
            run_in_compute=self.in_compute,
            now_us=self.now_us,
        )
        self.searcher = Searcher(
            self.recommender,
            self.view,
            self.text_keeper,
            self.query_features,
            find=functools.partial(self.in_database, ItemSearch(self.database, self.tenant).find),
            run_in_compute=self.in_compute,
            now_us=self.now_us,
        )
        self.database_is_away = False
        """Whether the last look at the database failed: what others wrote since is missing here."""
        self.metrics.database_away.set_function(lambda: self.database_is_away)
        self._last_erasure = 0
        self._counted: dict[str, int] = {}
        self._refreshing = asyncio.Lock()
        """Who reads what operators wrote waits for who does already: what was read before must not replace what was
        read after."""

    # --- threads

    async def in_database(self, call: Callable[..., Result], *arguments: Any) -> Result:
        """Run a blocking read of the database off the event loop."""
        return await self._run(self._reading_threads, call, *arguments)

    async def in_report(self, call: Callable[..., Result], *arguments: Any) -> Result:
        """Run a read of the database that may take minutes, one after the other, so that no other waits for a thread.

        Who gives up before its turn is passed over.
        """
        return await self._run(self._report_thread, call, *arguments)

    async def in_writing(self, call: Callable[..., Result], *arguments: Any) -> Result:
        """Run a blocking write to the database off the event loop, and tell the others; reads never wait behind it."""
        result = await self._in_writing(call, *arguments)
        self._tell_others()
        return result

    def _tell_others(self) -> None:
        if self._bell is not None:
            self._bell.ring()
        self.notifications.announce(Topic.WRITES)

    async def _in_writing(self, call: Callable[..., Result], *arguments: Any) -> Result:
        """As `in_writing`, of what no other server needs to know at once."""
        return await self._run(self._writing_threads, call, *arguments)

    async def in_compute(self, call: Callable[..., Result], *arguments: Any) -> Result:
        """Run a blocking computation off the event loop."""
        return await self._run(self._compute_threads, call, *arguments)

    async def _run(self, threads: Executor, call: Callable[..., Result], *arguments: Any) -> Result:
        return await asyncio.get_running_loop().run_in_executor(threads, functools.partial(call, *arguments))

    # --- life

    async def open(self) -> None:
        """Migrate the database, read what requests need, and start the tasks that belong to the parts.

        A worker leaves the schema to its parent: one that takes another's place after a newer release has migrated
        goes on as the others do.

        Raises:
            ConfigurationError: the database is a newer release's, or none.
            DatabaseUnavailableError: the database cannot be reached.
        """
        if self._bell is None:
            await self._in_writing(self.database.migrate)
        await self.refresh_event_types()
        await self.refresh_documents()
        await self.catalogue_tail.catch_up()
        # Before all that an erasure changes: one that comes while that is read is followed.
        self._last_erasure = await self.in_database(self._newest_erasure)
        head = await self.in_database(self.log.head)
        window = _POPULARITY_HALF_LIVES * self.settings.popularity_half_life_events
        # Opened again after the database went away meanwhile: what is applied already must not count twice.
        start = max(self.log_tail.position, head - window)
        self.log_tail.position = self.states.applied_position = start
        await self.log_tail.catch_up()
        await self._read_links()  # the events applied tell who was linked once, which an erasure may have undone
        self.committer.start()
        self.embedder.start()
        self.impression_writer.start()
        log.info("server_state_read", items=len(self.view.items), position=self.log_tail.position)

    async def follow(self) -> None:
        """Read what other processes wrote since: events, catalogue changes, erasures.

        Raises:
            DatabaseUnavailableError: the database cannot be reached now; answers say so until a look succeeds.
        """
        self._gauge()
        try:
            await self._look()
        except DatabaseUnavailableError:
            self.database_is_away = True
            raise
        self.database_is_away = False
        await self.text_keeper.retry()

    def hurry(self) -> None:
        """Another process wrote something, perhaps what new items wait for."""
        self._placer.hurry()
        self.text_keeper.hurry()

    @property
    def awaits_features(self) -> bool:
        """Whether there are items whose text features somebody is about to store, which nobody tells of."""
        return self._placer.awaits_features or self.text_keeper.awaits_features

    async def _look(self) -> None:
        try:
            async with asyncio.timeout(_LOOK_LIMIT_S):
                counted = await self.in_database(self.database.counters, self.tenant)
        except TimeoutError as error:
            raise DatabaseUnavailableError(f"the database did not answer in {_LOOK_LIMIT_S} s") from error
        if counted == self._counted and not self._placer.is_waiting:
            return  # nobody wrote anything: an idle server costs one small read per look
        if counted.get(event_types.REVISION) != self._counted.get(event_types.REVISION):
            await self.refresh_event_types()
        if counted.get(document_store.REVISION) != self._counted.get(document_store.REVISION):
            await self.refresh_documents()
        elif counted.get(tallies.REVISION) != self._counted.get(tallies.REVISION):
            await self._refresh_tallies()
        await self.log_tail.catch_up()
        await self.catalogue_tail.catch_up()
        await self._follow_erasures()
        self._counted = counted

    async def _follow_erasures(self) -> None:
        last = self._last_erasure
        while batch := await self.in_database(self.log.erasures_after, last):
            held = {subject_hash(subject): subject for subject in self.states.subjects()}
            for erasure in batch:
                if (subject := held.get(erasure.subject_hash)) is not None:
                    self.states.drop(subject)
                if erasure.is_whole:
                    self.impression_writer.forget(erasure.subject_hash)
            last = batch[-1].number
        if last > self._last_erasure:
            # What was written before they came is applied first: it may name links that they undid.
            await self.log_tail.catch_up()
            await self._read_links()
            self._last_erasure = last

    async def _read_links(self) -> None:
        async with self.log_tail.turn:  # a link applied while they are read must not be lost
            self.states.set_links(await self.in_database(self.log.links))

    async def heartbeat(self) -> None:
        """Tell the updater which generations are in use here or about to be, so that it keeps them."""
        held = {generation.number for generation in self.generations.loaded}
        if self.generations.loading is not None:
            held.add(self.generations.loading)
        await self._in_writing(
            self.registry.heartbeat, self.server_id, sorted(held), self.settings.lease_ttl_s, self.now_us()
        )

    async def close(self) -> None:
        """Write what waits, give the lease back, end every task and thread; what hangs is left behind."""
        await self.committer.stop()
        await self.embedder.stop()
        try:
            async with asyncio.timeout(_LAST_WRITES_LIMIT_S):
                await self.impression_writer.stop()
                await self._in_writing(self.registry.heartbeat, self.server_id, [], 0.0, self.now_us())
        except (DatabaseUnavailableError, TimeoutError):
            log.warning("lease_not_returned")
        threads = (
            self._report_thread,
            self._reading_threads,
            self._writing_threads,
            self._compute_threads,
            self._loader_thread,
            self._text_thread,
        )
        await asyncio.gather(
            asyncio.to_thread(self.notifications.close),
            *(asyncio.to_thread(each.shutdown, wait=True, cancel_futures=True) for each in threads),
        )
        self._store.close()
        self.database.close()

    # --- what services share

    async def refresh_event_types(self) -> None:
        """Read the registered event types; when others are part of histories than before, all are read anew."""
        async with self._refreshing:
            before = self._types_left_out()
            self.event_types = await self.in_database(self.event_type_store.all)
            if self._types_left_out() != before:
                self.states.drop_all()

    async def refresh_documents(self) -> None:
        """Read the strategies and the experiments."""
        async with self._refreshing:
            try:
                self.strategies.replace(await self.in_database(self.strategy_store.all))
                self.experiments.replace(await self.in_database(self.experiment_store.all))
            except InvalidFieldError as error:  # a newer release wrote it: what is held goes on answering
                log.error("documents_not_read", reason=str(error))
            await self._read_tallies()

    async def _refresh_tallies(self) -> None:
        async with self._refreshing:
            await self._read_tallies()

    async def _read_tallies(self) -> None:
        """Read how the arms of the experiments that learn stand."""
        for name, experiment in self.experiments.experiments.items():
            if experiment.allocation != FIXED:
                self.experiments.learn(name, await self.in_database(self.tallies.of, name))

    async def register_event_types(self, names: Collection[str], caller: str | None) -> None:
        """Register the types that an import meets and nobody registered, while there is room for more.

        Names that cannot be types are left out.

        Args:
            names: of types.
            caller: by whose token, for the log; None: there are no tokens.
        """
        unknown = [name for name in names if name not in self.event_types and _can_be_type(name)]
        if unknown:
            await self.refresh_event_types()  # another server may have registered them
            room = max(0, event_types.MAX_TYPES - len(self.event_types))
            new = sorted(name for name in unknown if name not in self.event_types)
            try:
                await self.in_writing(self.event_type_store.register_missing, new[:room])
                log.info("event_types_registered", event_types=new[:room], caller=caller)
            except InvalidFieldError as error:  # another server was faster; the events are refused one by one
                log.warning("event_types_not_registered", reason=str(error))
            await self.refresh_event_types()

    async def compute_features(self, item_ids: Collection[str]) -> None:
        """Compute and store the text features of items that have none yet, and place the items.

        Raises:
            NotReadyError: there is no text encoder.
        """
        items = await self.in_database(self.catalogue.get, item_ids)
        texts = [text for item in items.values() if (text := item.text())]
        if texts:
            await self._run(self._text_thread, self._encode, texts)
            self._tell_others()
        async with self.catalogue_tail.turn:  # a change applied while they are placed must not be undone
            await self._placer.place(item_ids, self.generations.loaded)
        await self.text_keeper.place(item_ids)

    async def load_text_encoder(self) -> None:
        """Load the text encoders now rather than with the first new item and the first search."""
        try:
            await self._run(self._text_thread, lambda: self._encoder)
            await self._run(self._text_thread, self.query_features.load)
            await self.text_keeper.start(self._encoder.id, self._encoder.dimension)
        except DatabaseUnavailableError as error:  # `follow` reads what is stored when it is back
            log.warning("texts_awaited", reason=str(error))
        except Exception:  # the server answers all the same; what needs it says so
            log.exception("text_encoder_not_loaded")

    async def mirror_label(self, label: str, number: int) -> None:
        """Note in the artifact store where a label points now; what fails is logged, SQL is what counts.

        Behind a load that takes long it is noted later, in the order in which labels were moved.
        """
        try:
            async with asyncio.timeout(_MIRROR_LIMIT_S):
                await asyncio.shield(self._run(self._loader_thread, self._store.mirror_label, label, number))
        except (ArtifactError, OSError, TimeoutError) as error:
            reason = str(error) or f"the artifact store did not answer in {_MIRROR_LIMIT_S:g} s"
            log.warning("label_not_mirrored", label=label, generation=number, reason=reason)

    # --- what the parts call

    @functools.cached_property
    def _encoder(self) -> CachedTextEncoder:
        return CachedTextEncoder(self._new_text_encoder(), self._features)

    def _new_text_encoder(self) -> TextEncoder:
        if self._encoders:
            return self._encoders.pop()
        return TextEncoder(self.settings.text_encoder_path)

    def _encode(self, texts: Sequence[str]) -> None:
        try:
            encoder = self._encoder
        except (ConfigurationError, ArtifactError) as error:
            raise NotReadyError(f"the items are written but not placed: {error}") from error
        encoder.features(texts)

    async def _stored_features(self, encoder: str, hashes: Sequence[bytes]) -> Features:
        return await self.in_database(self._features.get, encoder, hashes)

    async def _load_state(self, subject: Subject) -> Recollection:
        return await self.in_database(self.log.recall, subject, self.states.history_length, self._types_left_out())

    def _types_left_out(self) -> set[str]:
        """The event types that are no part of histories."""
        return {name for name, event_type in self.event_types.items() if not event_type.in_history}

    def _newest_erasure(self) -> int:
        number = 0
        while batch := self.log.erasures_after(number):
            number = batch[-1].number
        return number

    def _apply(self, logged: LoggedEvent) -> None:
        event = logged.event
        self.states.apply(logged)
        self.backlog.add(logged.position, logged.received_time_us)
        event_type = self.event_types.get(event.event_type)
        if event.item_id and event_type is not None and event_type.is_target and event_type.weight > 0.0:
            self.popularity.add(event.item_id, event_type.weight)

    async def _catalogue_changed(self, changes: Sequence[ItemChange]) -> None:
        for change in changes:
            if change.item is None:
                self.popularity.remove(change.item_id)
            else:
                self.popularity.admit(change.item_id)
        if self.generations.loaded:
            await self._placer.take(changes, self.generations.loaded)
        await self.text_keeper.take(changes)

    async def _prepare(self, generation: ServingGeneration) -> None:
        """Place newer items, then answer for the users seen last: caches filled, files paged in, code warm."""
        self.states.keep_at_least(kept_length(generation.config))
        await self._placer.fill(generation)
        states: list[UserState] = self.states.newest(_WARM_UP_HISTORIES)
        vectors = [await self.embedder.of_state(generation, state) for state in states]
        for interests in vectors or [np.ones((1, generation.items.dimension), dtype=np.float32)]:
            await self.in_compute(generation.items.retrieve, interests, 10, lambda _: True)

    def _gauge(self) -> None:
        self.metrics.log_position.set(self.log_tail.position)
        self.metrics.catalogue_revision.set(self.view.revision)
        self.metrics.user_states.set(len(self.states))
        stable = self.generations.stable
        if stable is not None:
            self.metrics.fresh_items.set(stable.items.fresh_count)
            staleness_us = self.backlog.staleness_us(stable.manifest.watermark, self.now_us())
            self.metrics.staleness_seconds.set(staleness_us / 1e6)


def _can_be_type(name: str) -> bool:
    try:
        check_event_type(EventType(name))
    except InvalidFieldError:
        return False
    return True
