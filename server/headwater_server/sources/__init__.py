"""What proposes items: one class each, behind `CandidateSource`; `gathering` asks them within a time budget."""
