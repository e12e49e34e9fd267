"""What the server and the updater must agree on: events, log, catalogue, towers, shards, generations."""
