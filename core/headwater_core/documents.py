"""What documents that operators write have in common: frozen, checked when they are made, told where they are wrong."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from headwater_core.errors import InvalidFieldError


class Part(BaseModel):
    """A part of a document: unknown fields and numbers that are none are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Document(Part):
    """A whole document. A check of the whole raises ValueError("field: reason")."""

    def to_dict(self) -> dict[str, Any]:
        """As JSON can hold it; what is as by default is left out."""
        return self.model_dump(mode="json", exclude_defaults=True)

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Self:
        """The checked document.

        Raises:
            InvalidFieldError: naming the field, for example `sources[2].weight`, and the reason.
        """
        try:
            return cls.model_validate(content)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            reason = str(first["msg"]).removeprefix("Value error, ")
            field = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in first["loc"])
            if not field:  # it is of the whole: the reason begins with the field
                field, _, reason = reason.partition(": ")
            raise InvalidFieldError(field.removeprefix("."), reason) from error


def refuse_repeated(values: Iterable[Any], reason: str) -> None:
    """Refuse values that are there more than once. Args: reason: with {0} for the value.

    Raises:
        ValueError: saying so.
    """
    refuse([value for value, count in Counter(values).items() if count > 1], reason)


def refuse(found: Iterable[Any], reason: str) -> None:
    """Refuse if anything was found.

    Raises:
        ValueError: with the first in place of {0}.
    """
    for each in found:
        raise ValueError(reason.format(each))
