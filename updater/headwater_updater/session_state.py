"""What training resumes from beside the learner's checkpoint: two small files of the generation."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from headwater_core.errors import ArtifactError, InvalidFieldError
from headwater_core.json_reading import parse_json
from headwater_updater.blend_search import BlendSearch
from headwater_updater.gate import Gate
from headwater_updater.pacing import Pacing
from headwater_updater.prequential import Prequential
from headwater_updater.replay import ReplayBuffer
from headwater_updater.watch import Watch

REPLAY = "replay.safetensors"
SESSION = "session.json"
SCHEMA_VERSION = 3


@dataclass(slots=True)
class SessionState:
    """The parts of a session that change with every round and are not the learner's."""

    replay: ReplayBuffer
    prequential: Prequential
    search: BlendSearch
    gate: Gate
    pacing: Pacing
    watch: Watch
    erasure: int = 0
    """The number of the last erasure that was followed."""

    def files(self) -> dict[str, bytes]:
        """The state as files of a generation, by name."""
        session = {
            "schema_version": SCHEMA_VERSION,
            "prequential": self.prequential.state(),
            "blend_search": self.search.state(),
            "gate": self.gate.state(),
            "pacing": self.pacing.state(),
            "watch": self.watch.state(),
            "erasure": self.erasure,
        }
        return {REPLAY: self.replay.state(), SESSION: json.dumps(session, separators=(",", ":")).encode()}

    @classmethod
    def load(cls, files: Mapping[str, bytes], steps_per_round: int) -> SessionState:
        """The state that `files` gave; the setting is of now.

        Raises:
            ArtifactError: when a file is missing, damaged or of another schema.
        """
        for name in (REPLAY, SESSION):
            if name not in files:
                raise ArtifactError("read", name, "is not part of the generation")
        try:
            session = parse_json(files[SESSION])
            if session["schema_version"] != SCHEMA_VERSION:
                raise ArtifactError("read", SESSION, f"has schema version {session['schema_version']}")
            prequential, erasure = Prequential.load_state(session["prequential"]), int(session["erasure"])
            search = BlendSearch.load_state(session["blend_search"])
            gate = Gate.load_state(session["gate"])
            pacing = Pacing.load_state(session["pacing"], steps_per_round)
            watch = Watch.load_state(session["watch"])
        except (ValueError, LookupError, TypeError, AttributeError, OverflowError, InvalidFieldError) as error:
            raise ArtifactError("read", SESSION, f"is no session state: {error}") from error
        return cls(ReplayBuffer.load_state(files[REPLAY]), prequential, search, gate, pacing, watch, erasure)
