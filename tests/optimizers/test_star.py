"""STAR's equation in numpy; its options."""

import jax
import numpy as np
import pytest

from metaopt.optimizers.star import star
from tests.optimizers.test_equations import (
    adafac_decays,
    adafac_features,
    moved_theta,
    network,
    normalise,
    run,
    time_features,
)

DIRECTIONS = {
    "sgd": lambda g, m, r: g,
    "momentum": lambda g, m, r: m[..., 2],
    "aggmo": lambda g, m, r: m.mean(-1),
    "adam": lambda g, m, r: m[..., 2] * r,
    "aggmo_adam": lambda g, m, r: (m * r[..., None]).mean(-1),
}


def equation(theta, grads, params, nominal="aggmo_adam", averaged=(), precondition=True, rates=(1e-3, 1e-5)):
    features = adafac_features(*adafac_decays(theta))
    terms = ["step"] + ["nominal"] * bool(rates[0]) + ["decay"] * bool(rates[1])
    for t, g in enumerate(grads):
        x, m, v = features(g, params)
        out = network(theta["mlp"], np.concatenate([normalise(x), time_features(t, g.shape)], -1))
        r = (v[..., 0] + 1e-6) ** -0.5
        scale = {"step": 1.0, "nominal": 0.0, "decay": 0.0}
        for i, term in enumerate(terms, 1):
            scale[term] = np.exp(1e-3 * (out[..., i].mean() if term in averaged else out[..., i]))
        step = 1e-3 * out[..., 0] * scale["step"] * (r if precondition else 1)
        nominal_step = rates[0] * scale["nominal"] * DIRECTIONS[nominal](g, m, r)
        params = (1 - rates[1] * scale["decay"]) * params - step - nominal_step
    return params


def check(shapes, rates=(1e-3, 1e-5), **options):
    rng, optimizer = np.random.default_rng(0), star(nominal_rate=rates[0], decay=rates[1], **options)
    theta = moved_theta(optimizer, rng)
    # large magnitudes, or exp(1e-3 a) would hide a mistake in them
    theta["mlp"]["b2"] = theta["mlp"]["b2"] + 100.0 * np.arange(len(theta["mlp"]["b2"]))
    params = {str(shape): rng.standard_normal(shape) for shape in shapes}
    grads = [{name: rng.standard_normal(p.shape) for name, p in params.items()} for _ in range(5)]
    moved = run(optimizer.build(theta, 5), grads, params)
    for name, p in params.items():
        expected = equation(theta, [g[name] for g in grads], p, rates=rates, **options)
        # log(1 - decay) is float32 inside, so 1 - decay is off by 4e-7 and sqrt(v) by 2e-7; five steps of at most 0.1
        np.testing.assert_allclose(moved[name], expected, rtol=0, atol=1e-7)
        assert np.abs(moved[name] - p).max() > 1e-4


@pytest.mark.parametrize("shape", [(), (7,), (5, 3), (4, 2, 3), (2, 3, 4, 5), (30, 40)], ids=str)
def test_equation(shape, x64):
    """Every rank, and a tensor that is large enough for a block of its own."""
    check([shape], averaged=("nominal", "decay") if len(shape) % 2 else ())


@pytest.mark.parametrize("nominal", DIRECTIONS)
def test_nominal_directions(nominal, x64):
    check([(4, 2, 3)], nominal=nominal, averaged=("step",), precondition=False)


@pytest.mark.parametrize("rates", [(0.0, 0.0), (1e-3, 0.0), (0.0, 1e-2)], ids=str)
def test_a_term_that_is_off_has_no_output(rates, x64):
    check([(5, 3)], rates=rates)


def test_a_fresh_optimizer_is_about_its_nominal_one():
    """The network's step is small beside it, whatever the scale of the gradient."""
    theta = star().init(jax.random.key(0))
    assert sum(x.size for x in jax.tree.leaves(theta)) == 207
    rng = np.random.default_rng(0)
    params = {scale: rng.standard_normal(100).astype(np.float32) for scale in (1e-6, 1e-3, 1.0)}
    draws = rng.standard_normal((20, 100)).astype(np.float32)
    grads = [{scale: np.float32(scale) * draw for scale in params} for draw in draws]
    moved = run(star().build(theta, 20), grads, params)
    assert all(np.abs(moved[scale] - p).max() < 20 * 2e-3 for scale, p in params.items())


@pytest.mark.parametrize(
    "arguments, message",
    [({"nominal": "adm"}, "nominal: .* got 'adm'"), ({"averaged": ("magnitude",)}, "averaged: .* got .'magnitude'")],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        star(**arguments)
