"""Which generations stay, and letting the others go."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import structlog

from headwater_core.artifact_store import ArtifactStore
from headwater_core.errors import ConflictError
from headwater_core.registry import GenerationRecord, GenerationRegistry

_ALL = 1_000_000

_log = structlog.get_logger(__name__)


def generations_to_keep(
    records: Sequence[GenerationRecord], labels: Mapping[str, int], held: Collection[int], newest: int
) -> set[int]:
    """The generations that must stay.

    Args:
        records: all recorded generations, newest first.
        labels: where every label points.
        held: what live servers hold.
        newest: how many of the newest stay in any case.

    Returns:
        the newest, the labelled with their parents (so that a label can be rolled back), and the held.
    """
    labelled = set(labels.values())
    parents = {record.parent for record in records if record.number in labelled}
    wanted = {record.number for record in records[:newest]} | labelled | parents | set(held)
    return wanted & {record.number for record in records}


def retire(
    store: ArtifactStore,
    registry: GenerationRegistry,
    newest: int,
    grace_s: float,
    now_us: int,
    needed: Collection[int] = (),
) -> list[int]:
    """Forget the generations that need not stay and collect what only they used; the numbers that went.

    Args:
        store: where their files are.
        registry: where they are recorded.
        newest: how many of the newest stay in any case.
        grace_s: files younger than this stay.
        now_us: the time, for servers' leases.
        needed: what stays for another reason.
    """
    records = registry.list(None, _ALL)
    held = registry.held_generations(now_us).union(needed)
    labels = registry.labels()
    held.update(number for label in labels for number in registry.earlier(label, 1))
    keep = generations_to_keep(records, labels, held, newest)
    gone = [record.number for record in records if record.number not in keep]
    try:
        # The record goes first: a record without files would be a generation that nobody can load.
        registry.delete(gone)
    except ConflictError as conflict:
        _log.info("retention_postponed", reason=str(conflict))
        return []
    store.collect_garbage(keep, grace_s)
    return gone
