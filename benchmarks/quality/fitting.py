"""What the measuring programs share: data as the product reads it, and its learner trained for so many epochs.

By epochs, not by the clock, so that the seed fixes the result and slow machines measure the same.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch

from headwater_core.errors import HeadwaterError
from headwater_core.events import HistoryEvent
from headwater_core.histories import fit_vocabulary
from headwater_core.text import TextEncoder
from headwater_core.towers import TowerConfig
from headwater_updater.evaluation.events_file import EventData, read_events
from headwater_updater.evaluation.items_file import read_items
from headwater_updater.evaluation.splits import Histories, k_core
from headwater_updater.full_training import Progress
from headwater_updater.learner import Learner
from headwater_updater.learner_config import Budget, LearnerConfig, target_weights


@dataclass(frozen=True, slots=True)
class Data:
    """Events and texts."""

    histories: Histories
    """Of the users and items that `--min-core` leaves."""
    events: EventData
    features: Mapping[str, np.ndarray]
    """Item → the features of its text, (F,) float16; items without a text are left out."""
    text_dimension: int

    @property
    def item_ids(self) -> list[str]:
        """All items with an event, by first appearance."""
        everything = chain.from_iterable(self.histories.values())
        return list(dict.fromkeys(event.item_id for event in everything if event.item_id))

    def features_of(self, item_ids: Sequence[str]) -> np.ndarray:
        """(n, F) float16, all 0 for an item without a text."""
        nothing = np.zeros(self.text_dimension, np.float16)
        return np.stack([self.features.get(item_id, nothing) for item_id in item_ids])


def parse(description: str, options: Iterable[tuple[str, dict[str, Any]]] = ()) -> argparse.Namespace:
    """The command line that all programs share, and options of one's own; takes one thread, as figures state."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--events", type=Path, required=True, help="CSV or .csv.gz, as `headwater-updater evaluate`'s")
    parser.add_argument("--items", type=Path, help="CSV or .csv.gz of items and their texts")
    parser.add_argument("--min-core", type=int, default=0, help="first keep only users and items with so many events")
    parser.add_argument("--allow-repeats", action="store_true", help="users come back to items")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--texts", type=Path, help="a file that keeps the texts' features from run to run")
    parser.add_argument("--out", type=Path, help="where to write the figures as JSON")
    parser.add_argument("--plot", type=Path, help="where to draw them (needs matplotlib, of the bench extra)")
    for name, arguments in options:
        parser.add_argument(name, **arguments)
    torch.set_num_threads(1)
    return parser.parse_args()


def read(arguments: argparse.Namespace) -> Data:
    """Read the files that the command line names, and encode the items' texts; a file that cannot be used ends it."""
    try:
        return _read(arguments)
    except (HeadwaterError, ValueError) as error:
        sys.exit(f"error: {error}")


def _read(arguments: argparse.Namespace) -> Data:
    events = read_events(arguments.events)
    histories = k_core(events.histories, arguments.min_core) if arguments.min_core else events.histories
    known = {event.item_id for event in chain.from_iterable(histories.values())}
    texts = read_items(arguments.items).texts if arguments.items else {}
    texts = {item_id: text for item_id, text in texts.items() if item_id in known and text.strip()}
    if not texts:
        return Data(histories, events, {}, 1)
    features = _features(list(dict.fromkeys(texts.values())), arguments.texts)
    dimension = len(next(iter(features.values())))
    return Data(histories, events, {item_id: features[text] for item_id, text in texts.items()}, dimension)


def train(
    data: Data,
    training: Sequence[Sequence[HistoryEvent]],
    arguments: argparse.Namespace,
    tower: Mapping[str, Any] | None = None,
    learning: Mapping[str, Any] | None = None,
    *,
    learn_held_out: bool = False,
) -> Learner:
    """The product's learner, its own settings, after so many epochs; it knows all items of the data.

    Args:
        data: texts and event types.
        training: histories.
        arguments: of `parse`: epochs, seed, repeats.
        tower: fields of the towers' configuration that differ from the defaults.
        learning: the same of the learner's.
        learn_held_out: whether the validation blocks are learned at the end.
    """
    config = LearnerConfig(
        fit_vocabulary(TowerConfig(text_dimension=data.text_dimension, **(tower or {})), training),
        target_weights(data.events.event_types),
        exclude_seen=not arguments.allow_repeats,
        **(learning or {}),
    )
    learner = Learner.create(config, arguments.seed)
    learner.add_items(data.item_ids, data.features_of(data.item_ids))
    learner.fit(training, Budget(epochs=arguments.epochs), _Notes(), learn_held_out=learn_held_out)
    return learner


class _Notes:
    """Says on standard error what each epoch reached."""

    def __init__(self) -> None:
        self._latest: float | None = None

    def __call__(self, progress: Progress) -> None:
        found = progress.validation_ndcg_at_10
        if found is not None and found != self._latest:
            self._latest = found
            print(f"epoch {progress.epoch}: loss {progress.loss:.3f}, validation {found:.4f}", file=sys.stderr)


def report(arguments: argparse.Namespace, content: Mapping[str, Any]) -> None:
    """Write the figures where `--out` says."""
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(content, indent=2) + "\n", "utf-8")


def markdown(columns: Sequence[str], rows: Iterable[Sequence[str | float]]) -> str:
    """A table; the first column to the left, the others to the right, numbers with four places."""
    lines = [f"| {' | '.join(columns)} |", f"| --- |{' ---: |' * (len(columns) - 1)}"]
    for row in rows:
        cells = [f"{cell:.4f}" if isinstance(cell, float) else str(cell) for cell in row]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _features(texts: Sequence[str], path: Path | None) -> dict[str, np.ndarray]:
    """By text; encoded where the file does not hold them all, and then left there.

    Raises:
        ValueError: the file is of other texts.
    """
    if path is not None and path.exists():
        with np.load(path) as kept:
            features = dict(zip(kept["texts"].tolist(), kept["features"], strict=True))
        if not features.keys() >= set(texts):
            raise ValueError(f"{path} holds the features of other texts: remove it or name another file")
        return features
    features = dict(zip(texts, TextEncoder().encode(texts), strict=True))
    if path is not None:
        np.savez(path, texts=np.array(list(features)), features=np.stack(list(features.values())))
    return features
