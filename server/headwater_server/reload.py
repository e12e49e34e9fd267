"""Which generations are loaded, and how a new one takes over.

TensorFlow Serving's rule: load the new one beside the old, warm it up, swap, and only then let the old one go (its last
request keeps it alive). A generation that fails to load leaves the old one serving; its reason is kept and it is tried
again only after a growing pause, when asked to, or when another is published.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any
from weakref import WeakValueDictionary

import structlog

from headwater_core.artifact_store import ArtifactStore
from headwater_core.errors import ArtifactError, DatabaseUnavailableError, HeadwaterError
from headwater_core.events import Subject
from headwater_core.generation import LoadedGeneration, Shards
from headwater_core.histories import TextFeatures
from headwater_core.registry import CANARY, STABLE, GenerationRegistry
from headwater_core.shards import Shard
from headwater_server.errors import LoadingError, NotReadyError, shown
from headwater_server.metrics import ServerMetrics
from headwater_server.serving_generation import ServingGeneration

_AWAY_RETRY_S = 1.0
_FIRST_RETRY_S = 5.0
_LONGEST_RETRY_S = 60.0
_MAX_DOUBLINGS = 10
SLOW_S = 30.0
"""A generation whose files take longer is said to have failed while they are waited for."""
log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a generation is not loaded."""

    reason: str
    attempts: int
    retry_at_s: float
    """On time.monotonic's clock."""


class Generations:
    """The loaded generations by label and by number."""

    def __init__(
        self,
        store: ArtifactStore,
        registry: GenerationRegistry,
        text_features: TextFeatures,
        metrics: ServerMetrics,
        *,
        run_in_database: Callable[..., Awaitable[dict[str, int]]],
        run_in_loader: Callable[..., Awaitable[Any]],
        announce: Callable[[], Awaitable[None]],
        prepare: Callable[[ServingGeneration], Awaitable[None]],
        canary_share: float = 0.0,
        shards: Shards | None = None,
    ) -> None:
        """Nothing is loaded yet.

        Args:
            store: where the files are.
            registry: where the labels are.
            text_features: for the queries of searches in histories.
            metrics: where swaps and failures are counted.
            run_in_database: runs a blocking call on the database off the event loop.
            run_in_loader: runs blocking work on files off the event loop.
            announce: tells the updater what is loaded and being loaded, so that none of it is deleted meanwhile.
            prepare: makes a loaded generation ready to serve: newer items placed, warmed up.
            canary_share: the share of users whom `canary` answers while there is one.
            shards: loaded before; whoever gave them keeps them.
        """
        self._store = store
        self._registry = registry
        self._text_features = text_features
        self._metrics = metrics
        self._run_in_database = run_in_database
        self._run_in_loader = run_in_loader
        self._announce = announce
        self._prepare = prepare
        self._canary_share = canary_share
        self._turn = asyncio.Lock()
        self._labels: dict[str, int] = {}
        self._loaded: dict[int, ServingGeneration] = {}
        self._loading: int | None = None
        self._shards: WeakValueDictionary[tuple[str, str, int], Shard] = WeakValueDictionary(shards or {})
        """Of all that is loaded: most generations share their base with the one before."""
        self._cached: set[int] = set()
        """The generations whose files were kept when the store's local copies were last trimmed."""
        self._previous: dict[str, int] = {}
        """What each label named before: page tokens may pin it."""
        self.failures: dict[int, Failure] = {}
        self.changed = asyncio.Condition()
        """Notified after every swap of `stable` and at the end."""
        self.is_closed = False

    @property
    def stable(self) -> ServingGeneration | None:
        """What answers when the request names nothing else."""
        return self._loaded.get(self._labels.get(STABLE, 0))

    @property
    def loaded(self) -> tuple[ServingGeneration, ...]:
        """Every loaded generation."""
        return tuple(self._loaded.values())

    @property
    def loading(self) -> int | None:
        """The generation being loaded now."""
        return self._loading

    def labels_of(self, number: int) -> list[str]:
        """The labels under which this server serves a generation."""
        return [label for label, named in self._labels.items() if named == number]

    def by_label(self, label: str) -> ServingGeneration:
        """The generation served under a label.

        Raises:
            NotReadyError: none is.
            LoadingError: the label `stable` names one that is not loaded here yet.
        """
        number = self._labels.get(label)
        if number is None or number not in self._loaded:
            if label == STABLE:
                if self._loading is not None or self.failures:
                    raise LoadingError("a generation is published and not loaded on this server yet")
                raise NotReadyError("no generation is published yet; run `headwater-updater bootstrap`")
            raise NotReadyError(f"label: {shown(label)} names no loaded generation")
        return self._loaded[number]

    def serving(self, subject: Subject | None) -> ServingGeneration:
        """What answers a subject that asks for nothing else: `stable`, and for a share of subjects `canary`.

        Who that is depends on their id alone: they stay the same, on every server.

        Raises:
            NotReadyError, LoadingError: nothing is loaded; as `by_label`.
        """
        canary = self._loaded.get(self._labels.get(CANARY, 0))
        if canary is not None and subject is not None and _draw(subject) < self._canary_share:
            return canary
        return self.by_label(STABLE)

    def by_number(self, number: int) -> ServingGeneration:
        """A loaded generation.

        Raises:
            NotReadyError: it is not loaded.
        """
        if number not in self._loaded:
            raise NotReadyError(f"generation: {number} is not loaded here")
        return self._loaded[number]

    async def close(self) -> None:
        """Tell those who wait for `changed` that nothing more comes."""
        self.is_closed = True
        async with self.changed:
            self.changed.notify_all()

    async def refresh(self, *, impatient: bool = False) -> None:
        """Look at the labels and load what they name.

        Args:
            impatient: also try again what failed a moment ago.
        """
        async with self._turn:
            wanted = await self._read_labels()
            for label, number in sorted(wanted.items(), key=lambda entry: entry[0] != STABLE):
                if self._labels.get(label) == number and number in self._loaded:
                    continue
                if number not in self._loaded and not await self._load(number, impatient=impatient):
                    continue
                await self._point(label, number)
            for label in self._labels.keys() - wanted.keys() if wanted else ():
                del self._labels[label]
                self._previous.pop(label, None)
                self._metrics.generation.remove(label)
            kept = {*self._labels.values(), *self._previous.values()}
            # Forgetting is enough: files are unmapped and weights freed with the last request that holds them.
            self._loaded = {number: loaded for number, loaded in self._loaded.items() if number in kept}
            if self._cached != self._loaded.keys():
                entries = [entry for each in self._loaded.values() for entry in each.manifest.files.values()]
                self._cached = set(self._loaded)
                try:
                    await self._run_in_loader(self._store.trim_cache, entries)
                except (ArtifactError, OSError) as error:  # it costs room, and the next swap tries again
                    log.warning("store_cache_not_trimmed", reason=str(error))
            self.failures = {number: why for number, why in self.failures.items() if number in wanted.values()}

    async def _read_labels(self) -> dict[str, int]:
        try:
            return await self._run_in_database(self._registry.labels)
        except DatabaseUnavailableError:
            if self._labels:
                return dict(self._labels)
            number = await self._run_in_loader(self._store.read_label, STABLE)
            return {STABLE: number} if isinstance(number, int) else {}

    async def _load(self, number: int, *, impatient: bool) -> bool:
        failure = self.failures.get(number)
        if failure is not None and not impatient and time.monotonic() < failure.retry_at_s:
            return False
        self._loading = number
        is_ready = False
        began = time.monotonic()
        try:
            try:
                await self._announce()
            except DatabaseUnavailableError:
                log.warning("generation_not_announced", generation=number)  # nothing is deleted while it is away
            generation = await self._files_loaded(number, failure)
            self._loaded[number] = generation  # from here on catalogue changes reach it
            await self._prepare(generation)
            is_ready = True
        except HeadwaterError as error:
            self._note_failure(number, str(error), failure, is_away=isinstance(error, DatabaseUnavailableError))
            return False
        except Exception as error:  # noqa: BLE001 - whatever it cannot be warmed up for, the old one goes on serving
            self._note_failure(number, f"{type(error).__name__}: {error}", failure)
            return False
        finally:
            self._loading = None
            if not is_ready:  # also when the call that asked for it was cancelled: the next look tries again
                self._loaded.pop(number, None)
        self.failures.pop(number, None)
        self._metrics.load_seconds.observe(time.monotonic() - began)
        log.info(
            "generation_loaded",
            generation=number,
            items=generation.items.item_count,
            watermark=generation.manifest.watermark,
            seconds=round(time.monotonic() - began, 3),
        )
        return True

    async def _files_loaded(self, number: int, before: Failure | None) -> ServingGeneration:
        """Wait for the files, however long that takes; that it takes long is a failure until they are there."""
        loading = asyncio.ensure_future(self._run_in_loader(self._load_files, number))
        try:
            done, _ = await asyncio.wait({loading}, timeout=SLOW_S)
            if not done:
                reason = f"not loaded after {SLOW_S:g} s: the artifact store is slow or hangs; it is waited for"
                self._note_failure(number, reason, before)
            generation: ServingGeneration = await loading
            return generation
        finally:
            loading.cancel()

    def _load_files(self, number: int) -> ServingGeneration:
        try:
            return ServingGeneration(LoadedGeneration.load(self._store, number, self._shards), self._text_features)
        except (ValueError, MemoryError, OSError, RuntimeError) as error:
            raise ArtifactError("load", f"generation {number}", f"{type(error).__name__}: {error}") from error

    def _note_failure(self, number: int, reason: str, before: Failure | None, *, is_away: bool = False) -> None:
        """Args: is_away: it is no fault of the generation's, and passes by itself."""
        attempts = before.attempts + 1 if before else 1
        pause_s = min(_FIRST_RETRY_S * 2 ** min(attempts - 1, _MAX_DOUBLINGS), _LONGEST_RETRY_S)
        if self.stable is None:  # whatever it costs to try, nothing is worth more
            pause_s = _FIRST_RETRY_S
        if is_away:
            pause_s = _AWAY_RETRY_S
        self.failures[number] = Failure(reason, attempts, time.monotonic() + pause_s)
        self._metrics.load_failures.inc()
        tell = log.warning if is_away else log.error
        tell("generation_not_loaded", generation=number, reason=reason, attempts=attempts, retry_in_s=pause_s)

    async def _point(self, label: str, number: int) -> None:
        if label in self._labels:
            self._previous[label] = self._labels[label]
        self._labels[label] = number
        self._metrics.generation.labels(label).set(number)
        if label == STABLE:
            self._metrics.swaps.inc()
            async with self.changed:
                self.changed.notify_all()


def _draw(subject: Subject) -> float:
    """Between 0 and 1; independent of whose events the updater holds out."""
    digest = hashlib.blake2b(f"canary\0{subject.kind.value}\0{subject.id}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64
