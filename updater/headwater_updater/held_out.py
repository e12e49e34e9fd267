"""Whose events never give gradients between full trainings: what a candidate is judged on must be new to it."""

from __future__ import annotations

import hashlib

from headwater_core.events import Subject, SubjectKind

FOLDS = 20
"""One of so many subjects is held out: 5 %."""


def is_held_out(subject: Subject) -> bool:
    """Whether the subject is in the fold, by a hash of who they are: the same in every process, for ever."""
    digest = hashlib.blake2b(f"{subject.kind.value}\0{subject.id}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") % FOLDS == 0


def is_held_out_user(user_id: str) -> bool:
    """The same of a user."""
    return is_held_out(Subject(SubjectKind.USER, user_id))
