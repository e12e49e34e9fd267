"""The errors that core raises.

HeadwaterError
├── InvalidFieldError       a value that was handed in is refused; names the field and the reason
├── NotFoundError           what was asked for does not exist
├── ConflictError           the state is not what the caller relied on (a label moved, an id taken)
├── LeaseLostError          this process no longer leads; its writes are refused
├── DatabaseUnavailableError  the database cannot be reached; trying again may help
│   └── TransactionConflictError  a transaction was given up for another's sake; nothing of it was written
├── ArtifactError           a file of the artifact store is missing, damaged or of an unknown schema
└── ConfigurationError      the settings cannot work

The server maps each to one gRPC status; anything else is a bug, logged and answered INTERNAL.
"""

from __future__ import annotations


class HeadwaterError(Exception):
    """The root of every error raised on purpose."""


class InvalidFieldError(HeadwaterError):
    """A value that was handed in is refused."""

    def __init__(self, field: str, reason: str) -> None:
        """Args: field: the path to the value, for example `events[3].value`; reason: what is wrong with it."""
        super().__init__(f"{field}: {reason}")
        self.field = field
        self.reason = reason

    def within(self, prefix: str) -> InvalidFieldError:
        """The same refusal, its field seen from the outer message."""
        return InvalidFieldError(f"{prefix}.{self.field}", self.reason)


class NotFoundError(HeadwaterError):
    """What was asked for does not exist."""


class ConflictError(HeadwaterError):
    """The state is not what the caller relied on."""


class LeaseLostError(HeadwaterError):
    """This process no longer holds the lease under which it wanted to write."""


class DatabaseUnavailableError(HeadwaterError):
    """The database cannot be reached now; trying again may help."""


class TransactionConflictError(DatabaseUnavailableError):
    """A transaction was given up for another's sake: a deadlock, a serialisation failure, a lock waited for too long.

    Nothing of it was written. `repeating.repeated` tries again; who still sees it may do so too.
    """


class ArtifactError(HeadwaterError):
    """A file of the artifact store is missing, damaged or of an unknown schema."""

    def __init__(self, operation: str, path: str, reason: str) -> None:
        """Args: operation: what was tried; path: on which file; reason: what is wrong."""
        super().__init__(f"{operation} {path}: {reason}")
        self.operation = operation
        self.path = path
        self.reason = reason


class ConfigurationError(HeadwaterError):
    """The settings cannot work."""
