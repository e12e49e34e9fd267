"""Which generations stay, and letting the others go."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import structlog

from headwater_core.artifact_store import ArtifactStore
from headwater_core.errors import ConflictError, LeaseLostError
from headwater_core.registry import GenerationRecord, GenerationRegistry, Lease

_ALL = 1_000_000
_KEPT_ASIDE = 2
"""How many of the newest stay that no label has named: what the gate refused, for who wants to know why."""

_log = structlog.get_logger(__name__)


def generations_to_keep(
    records: Sequence[GenerationRecord],
    named: Collection[int],
    labels: Mapping[str, int],
    held: Collection[int],
    newest: int,
) -> set[int]:
    """The generations that must stay.

    Args:
        records: all recorded generations, newest first.
        named: those that a label has named; the others were refused, or taken back.
        labels: where every label points.
        held: what live servers hold.
        newest: how many of the newest that were named stay in any case.

    Returns:
        the newest that were named, a few of those that were not, the labelled with their parents (so that a label can
        be rolled back), and the held.
    """
    numbers = [record.number for record in records]
    served = [number for number in numbers if number in named][:newest]
    aside = [number for number in numbers if number not in named][:_KEPT_ASIDE]
    labelled = set(labels.values())
    parents = {record.parent for record in records if record.number in labelled}
    return {*served, *aside, *labelled, *parents, *held}.intersection(numbers)


def retire(
    store: ArtifactStore,
    registry: GenerationRegistry,
    newest: int,
    grace_s: float,
    now_us: int,
    needed: Collection[int] = (),
    lease: Lease | None = None,
) -> list[int]:
    """Forget the generations that need not stay and collect what only they used; the numbers that went.

    Whoever is suspended in here while another leads deletes nothing of that one's: it is newer than what was looked at.

    Args:
        store: where their files are.
        registry: where they are recorded.
        newest: how many of the newest that served stay in any case.
        grace_s: files younger than this stay.
        now_us: the time before the call.
        needed: what stays for another reason.
        lease: the lease under which the caller acts; once it is lost, nothing is forgotten.

    Raises:
        ArtifactError: when the store cannot be read or written.
    """
    records = registry.list(None, _ALL)
    held = registry.held_generations(now_us).union(needed)
    labels = registry.labels()
    held.update(number for label in labels for number in registry.earlier(label, 1))
    keep = generations_to_keep(records, registry.named(), labels, held, newest)
    gone = [record.number for record in records if record.number not in keep]
    try:
        # The record goes first: a record without files would be a generation that nobody can load.
        registry.delete(gone, lease)
    except (ConflictError, LeaseLostError) as error:
        _log.info("retention_postponed", reason=str(error))
        return []
    last_seen = max((record.number for record in records), default=0)
    store.collect_garbage(keep, grace_s, last_seen, now_us / 1_000_000)
    return gone
