"""A log of any policy in a CSV file: one row for each shown item."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from headwater_core.errors import InvalidFieldError
from headwater_core.events import check_id
from headwater_updater.evaluation.csv_rows import DataFileError, number, read_rows
from headwater_updater.ope.cells import to_place, to_probability
from headwater_updater.ope.log import ROW, BanditLog, ShownRow, bandit_log

REQUIRED = ("item_id", "propensity", "reward")
OPTIONAL = ("position", "cluster", "target_propensity", "predicted_reward", "predicted_value")
CONTEXT_PREFIX = "context_"


def column_names(renamed: Sequence[str]) -> dict[str, str]:
    """How the file calls each column, by our name for it.

    Args:
        renamed: `ours=theirs`; what is not named here is called as we call it.

    Raises:
        InvalidFieldError: an entry is none.
    """
    names = {name: name for name in (*REQUIRED, *OPTIONAL)}
    for entry in renamed:
        ours, _, theirs = entry.partition("=")
        if ours not in names or not theirs:
            raise InvalidFieldError("column", f"{entry!r} is not NAME=COLUMN, NAME one of {', '.join(names)}")
        names[ours] = theirs
    return names


def read_csv_log(
    path: Path, names: Mapping[str, str], context: Sequence[str] | None = None, max_bad_rows: int = 0
) -> BanditLog:
    """Read `item_id`, `propensity` and `reward`, and where there are such columns those of OPTIONAL.

    Args:
        path: CSV, gzipped when its name ends in .gz.
        names: how the file calls the columns; see column_names.
        context: the columns that were known before the choice; None: those that begin with `context_`.
        max_bad_rows: how many rows that cannot be used are put up with.

    Raises:
        DataFileError: the file cannot be used.
    """
    required = [names[name] for name in REQUIRED]
    given = [theirs for ours, theirs in names.items() if theirs != ours]  # asked for by name: must be there

    def convert(_line: int, fields: Mapping[str, str]) -> ShownRow:
        return _row(fields, names, context)

    rows = read_rows(path, list(dict.fromkeys([*required, *given, *(context or ())])), convert, max_bad_rows)
    ours = {name for name in OPTIONAL if names[name] in rows.columns}
    if len(ours & {"predicted_reward", "predicted_value"}) == 1:
        raise DataFileError(path, "predicted_reward and predicted_value are of use only together")
    shown = list(context) if context is not None else _context_columns(rows.columns)
    clustered_by = names["cluster"] if "cluster" in ours else ROW
    return bandit_log(rows.values, clustered_by, shown, {"file": path.name, "bad_rows": rows.n_bad})


def _row(fields: Mapping[str, str], names: Mapping[str, str], context: Sequence[str] | None) -> ShownRow:
    """Raises: ValueError or InvalidFieldError when a cell cannot be used."""

    def optional(ours: str) -> float | None:
        return number(names[ours], fields[names[ours]]) if names[ours] in fields else None

    check_id(names["item_id"], fields[names["item_id"]], required=True)
    propensity = to_probability(names["propensity"], fields[names["propensity"]])
    if propensity == 0:
        raise ValueError(f"{names['propensity']}: 0, though the item was shown")
    target = names["target_propensity"]
    return ShownRow(
        item_id=fields[names["item_id"]],
        position=to_place(names["position"], fields[names["position"]]) if names["position"] in fields else 1,
        reward=number(names["reward"], fields[names["reward"]]),
        propensity=propensity,
        cluster=fields.get(names["cluster"], ""),
        context=tuple(fields[name] for name in (_context_columns(fields) if context is None else context)),
        target_propensity=to_probability(target, fields[target]) if target in fields else None,
        predicted_reward=optional("predicted_reward"),
        predicted_value=optional("predicted_value"),
    )


def _context_columns(columns: Iterable[str]) -> list[str]:
    return sorted(name for name in columns if name.startswith(CONTEXT_PREFIX))
