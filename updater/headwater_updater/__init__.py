"""The updater: learns from the feedback log all day and publishes what it learned."""
