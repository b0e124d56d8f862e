"""Heads that are solved: against the normal equations, Newton's method, and derivatives."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("scipy")

from ppokit.reward_models.linear import Problem, Scale, losses, mean_loss


def drawn(samples: int, features: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features of very different sizes, ratings, and weights of two heads."""
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(samples, features)) * np.logspace(0, -3, features)
    ratings = z @ rng.normal(size=features) + 0.7 + rng.normal(size=samples)
    return z, ratings, rng.poisson(1.0, (samples, 2)) + 0.5


@pytest.mark.parametrize(("samples", "features"), [(60, 7), (12, 40)])
@pytest.mark.parametrize("penalty", [1e-4, 1e-1])
def test_ridge_solves_the_normal_equations(samples, features, penalty) -> None:
    """(Z'WZ / N + penalty I) v = Z'W y / N with a column of ones that is not penalised, for each head."""
    z, ratings, weights = drawn(samples, features)
    solution = Problem(z, ratings).solve(weights, penalty)
    design = np.column_stack([z, np.ones(samples)])
    free = np.diag([penalty] * features + [0.0])
    for head in range(2):
        w = weights[:, [head]] / samples
        expected = np.linalg.solve(design.T @ (w * design) + free, design.T @ (w[:, 0] * ratings))
        np.testing.assert_allclose(solution[:, head], expected, atol=2e-4 * np.abs(expected).max())


@pytest.mark.parametrize(("samples", "features"), [(60, 7), (12, 40)])
def test_choices_are_solved_as_newton_solves_them(samples, features) -> None:
    z, _, weights = drawn(samples, features)
    penalty = 1e-2
    solution = Problem(z, None).solve(weights, penalty)
    assert (solution[-1] == 0).all()
    for head in range(2):
        v, w = np.zeros(features), weights[:, head] / samples
        for _ in range(30):
            chance = 1 / (1 + np.exp(z @ v))  # of the wrong choice
            slope = -z.T @ (w * chance) + 2 * penalty * v
            curve = z.T @ ((w * chance * (1 - chance))[:, None] * z) + 2 * penalty * np.eye(features)
            v = v - np.linalg.solve(curve, slope)
        np.testing.assert_allclose(solution[:-1, head], v, atol=2e-4 * np.abs(v).max())


def test_where_it_starts_does_not_matter() -> None:
    z, ratings, weights = drawn(50, 8)
    problem = Problem(z, ratings)
    first = problem.solve(weights, 1e-3)
    again = problem.solve(weights, 1e-3, np.random.default_rng(1).normal(size=first.shape))
    np.testing.assert_allclose(again, first, atol=1e-3 * np.abs(first).max())


def test_losses_by_hand() -> None:
    """Squares (2 - 1)^2 and (0 - 3)^2; log(1 + exp(-m)) of margins 0 and 1.5, slopes -1/(1 + exp(m))."""
    value, slope = losses(np.array([[2.0], [0.0]]), np.array([1.0, 3.0]))
    np.testing.assert_allclose(value[:, 0], [1, 9])
    np.testing.assert_allclose(slope[:, 0], [2, -6])
    value, slope = losses(np.array([[0.0], [1.5]]), None)
    np.testing.assert_allclose(value[:, 0], [0.6931472, 0.2014133], atol=1e-7)
    np.testing.assert_allclose(slope[:, 0], [-0.5, -0.1824255], atol=1e-7)
    z, solved = np.array([[1.0], [2.0]]), np.array([[1.0], [1.0]])
    assert mean_loss(z, np.array([1.0, 3.0]), np.array([2.0, 5.0]), solved) == pytest.approx(1.0)


def test_a_scale_is_undone() -> None:
    """Weights for scaled features, as weights for the features as they are; a constant one stays small."""
    rng = np.random.default_rng(0)
    x = rng.normal(5, [1, 100, 0.01, 1], (200, 4)).astype(np.float32)
    x[:, 3] = 2.0
    scale = Scale.of(x)
    z = scale.apply(x)
    assert np.abs(z[:, 3]).max() < 1e-6
    assert (z**2).sum(axis=1).mean() == pytest.approx(3 / 4, rel=1e-5)
    solved = rng.normal(size=(5, 2))
    weights, biases = scale.undone(solved)
    np.testing.assert_allclose(x @ weights.T + biases, z @ solved[:-1] + solved[-1], atol=1e-6)
