"""What a server knows of the others that answer on the same port of the same machine."""

from __future__ import annotations

from dataclasses import dataclass

from headwater_core.verified_files import VerifiedFiles
from headwater_server.doorbells import Doorbell
from headwater_server.preloading import Preloaded


@dataclass(frozen=True, slots=True)
class Fellows:
    """This worker's part in a server of several."""

    number: int
    """Which worker this is; what one of them does for all, the first does."""
    bell: Doorbell
    preloaded: Preloaded
    verified: VerifiedFiles
    """One of them reads each of a generation's files whole, the others map it."""
    sender: str
    """The name under which they all notify other servers: the bell has told them what one of them says there."""
