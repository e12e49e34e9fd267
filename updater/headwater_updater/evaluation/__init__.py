"""Measures the product on files of events: reads, splits, trains, ranks, scores."""
