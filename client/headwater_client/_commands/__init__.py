"""The commands of `headwater`."""
