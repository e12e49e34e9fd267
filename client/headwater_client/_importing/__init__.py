"""Imports files of events and items: rows, what they mean, and how they are sent."""
