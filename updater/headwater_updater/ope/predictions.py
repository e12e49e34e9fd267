"""What a reward model says of a log."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Predictions(NamedTuple):
    """Expected rewards of N rows."""

    shown: np.ndarray
    """(N,) of what was shown."""
    value: np.ndarray
    """(N,) the mean over what the policy to be evaluated would show instead."""
    leverage: np.ndarray
    """(N,) by how much the sum of `value` rises with the row's own reward, less their mean; 0 where it is not known,
    as for a model that was given ready."""
