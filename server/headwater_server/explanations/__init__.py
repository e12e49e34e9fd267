"""Why an item is in an answer: `removal` finds what raised it, `reasons` says it, in the words of `wording`."""
