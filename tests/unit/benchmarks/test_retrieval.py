"""Catalogues that are drawn from a real one's vectors."""

from __future__ import annotations

import numpy as np
from retrieval import synthetic_vectors

D = 6


def real() -> np.ndarray:
    """Three clusters of uneven spread, lengths of their own, the mean away from 0."""
    rng = np.random.default_rng(0)
    centres = 2.0 * rng.normal(size=(3, D))
    spread = np.array([1.0, 0.7, 0.4, 0.2, 0.1, 0.1])
    vectors = centres[rng.integers(3, size=900)] + spread * rng.normal(size=(900, D))
    return (vectors * rng.uniform(0.5, 2.0, size=(900, 1))).astype(np.float32)


def spectrum(vectors: np.ndarray) -> np.ndarray:
    values: np.ndarray = np.linalg.eigvalsh(np.cov(vectors.T))
    return values


def lengths(vectors: np.ndarray) -> np.ndarray:
    quantiles: np.ndarray = np.quantile(np.linalg.norm(vectors, axis=1), np.linspace(0, 1, 11))
    return quantiles


def test_a_synthetic_catalogue_is_like_the_real_one() -> None:
    """Its mean, the spectrum of its covariance and its lengths, also where it is larger."""
    drawn = synthetic_vectors(real(), 20_000, seed=1)
    assert drawn.shape == (20_000, D)
    assert drawn.dtype == np.float32
    np.testing.assert_allclose(drawn.mean(0), real().mean(0), atol=0.1)
    np.testing.assert_allclose(spectrum(drawn), spectrum(real()), rtol=0.15)
    np.testing.assert_allclose(lengths(drawn), lengths(real()), rtol=0.01)
    assert len(np.unique(drawn, axis=0)) == len(drawn)


def test_a_seed_fixes_the_catalogue() -> None:
    """Another one gives another; what it is drawn from is left as it was."""
    source = real()
    first, again, other = (synthetic_vectors(source, 50, seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.isin(other, first).any()
    np.testing.assert_array_equal(source, real())
