"""Off-policy evaluation: what another policy would have earned, estimated from the log of the one that served."""
