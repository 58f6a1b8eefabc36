"""Anchored: its equation in numpy, the hand-designed rule that it starts as, its bounds, what it does not depend on."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metaopt.optimizers.anchored import KINDS, anchored
from tests.estimators.problems import quick_jit
from tests.optimizers.test_equations import moved_theta, network
from tests.optimizers.test_hypernet import HORIZON, Recurrent, linear

SHAPES = [(), (7,), (5, 3), (4, 2, 3), (2, 3, 5, 2), (40, 30)]  # the last is too large for a flat block
STEPS = HORIZON + 2
B2 = 1 - float(np.float32(1e-3))  # as the implementation has it
KEY = jax.random.key(0)
ZERO = {"start": {"hidden": np.zeros(1), "cell": np.zeros(1)}}


def anchor(theta, t, horizon):
    peak, warmup = np.exp(theta["peak"]), 0.5 / (1 + np.exp(-theta["warmup"])) * horizon
    if t < warmup:
        return peak * (t + 1) / (warmup + 1)
    x = min((t - warmup) / max(horizon - warmup, 1), 1)
    return peak * (0.01 + 0.99 * (1 + np.cos(np.pi * x)) / 2)


def scales(params):
    """scale of each tensor, S"""
    model = max(np.sqrt(sum(np.sum(p**2) for p in params) / sum(p.size for p in params)), 0.01)
    return [max(np.sqrt(np.mean(p**2)), model / 2) for p in params], model


def size(x):
    return np.clip(np.log(1e-8 + 10 * x), -5, 5) / 2


class Basis:
    """Of one tensor: covariances and their eigenvectors by subspace iteration; sides above `side` are left out."""

    def __init__(self, shape, side, every):
        self.shape, self.every, self.t = (int(np.prod(shape[:-1])), shape[-1]) if len(shape) > 1 else (-1, 1), every, 0
        sizes = np.zeros(shape).reshape(self.shape).shape
        self.q, self.c = [np.eye(n) for n in sizes], [np.zeros((n, n)) for n in sizes]
        self.turned = [1 < n <= side for n in sizes]

    def follow(self, g):
        g = g.reshape(self.shape)
        for i, square in enumerate((g @ g.T, g.T @ g)):
            self.c[i] = 0.95 * self.c[i] + 0.05 * square
            if self.turned[i] and self.t % self.every == 0:
                q, r = np.linalg.qr(self.c[i] @ self.q[i] / np.mean(np.diag(self.c[i])) + 1e-5 * self.q[i])
                self.q[i] = q * np.sign(np.diag(r))
        self.t += 1

    def turn(self, x):
        """x of the tensor's shape, with more axes behind it or not."""
        rows = np.tensordot(self.q[0].T, x.reshape(*self.q[0].shape[:1], *self.q[1].shape[:1], -1), 1)
        return np.einsum("ij,rik->rjk", self.q[1], rows).reshape(x.shape)

    def back(self, x):
        return (self.q[0] @ x.reshape(self.shape) @ self.q[1].T).reshape(x.shape)


class Tensor:
    """The accumulators of a tensor, decays on the last axis, bias-corrected when they are looked at."""

    def __init__(self, shape, momenta, side, every):
        self.b, self.m, self.v, self.t = np.float64(np.float32(momenta)), 0.0, 0.0, 0
        self.basis = Basis(shape, side, every)

    def look(self, g, p, model):
        """-> (A, what L is multiplied by, x by kind, the tensor's own inputs)"""
        self.t += 1
        self.basis.follow(g)
        self.m = self.b * self.m + (1 - self.b) * g[..., None]
        g, p, m = (self.basis.turn(x) for x in (g, p, self.m / (1 - self.b**self.t)))
        self.v = B2 * self.v + (1 - B2) * g**2
        v = self.v / (1 - B2**self.t)
        r = 1 / np.sqrt(v + 1e-8 * v.mean())
        square = (m**2).mean(tuple(range(g.ndim)))
        x = {"gradient": g[..., None] / np.sqrt(np.mean(g**2)), "parameter": p[..., None] / np.sqrt(np.mean(p**2))}
        x |= {"momenta": m / np.sqrt(square), "ratios": m * r[..., None] / np.sqrt(square / v.mean())}
        own = [*size(square / v.mean()), size(np.mean(g**2) / v.mean()), size(np.mean(p**2) / model**2)]
        return (
            m[..., 0] * r,
            v * r**2 * np.sqrt(square[0] / v.mean()),
            x,
            [*own, np.tanh((np.log(p.size) - 5) / 2), 1.0 if p.ndim < 2 else -1.0],
        )


def equation(theta, grads, losses, params, momenta=(0.9, 0.99), **others):
    features, direction = others.get("features", KINDS), others.get("direction", "steered")
    schedule, side, every = others.get("schedule", True), others.get("side", 64), others.get("every", 5)
    tensors, trends = [Tensor(p.shape, momenta, side, every) for p in params], Recurrent(ZERO, 1)
    for t, (gs, value) in enumerate(zip(grads, losses, strict=True)):
        x = min(t, HORIZON)
        time = [x / HORIZON, np.tanh((np.log(1 + x) - 3) / 1.5), np.tanh((np.log(HORIZON) - 5) / 1.5)]
        shared, (scale, model), new = np.array([*time, *trends.loss_inputs(value)]), scales(params), []
        for tensor, g, p, s in zip(tensors, gs, params, scale, strict=True):
            total, room, kinds, own = tensor.look(g, p, model)
            c, rest, steer = 0.0, 0.0, 0.0
            if "tensor" in theta:
                hidden = np.maximum(linear(theta["tensor"]["hidden"], np.concatenate([shared, own])), 0)
                said = linear(theta["tensor"]["out"], hidden)
                c, rest = said[:2] if schedule else (0.0, 0.0)
                steer = said[2 * schedule :] if direction == "steered" else 0.0
            if direction != "adam":
                own_network = {**theta["coordinate"], "b0": theta["coordinate"]["b0"] + steer}
                d, a = np.moveaxis(network(own_network, np.concatenate([kinds[k] for k in features], -1)), -1, 0)
                total = total + np.clip(d * np.clip(1 + a / 8, 0, 2) ** 8, -1, 1) * room
            unit = total / np.sqrt(np.mean(total**2) + (0.1 * 30 ** -np.tanh(rest)) ** 2)
            step = s * anchor(theta["anchor"], t, HORIZON) * 10 ** np.tanh(c) * unit
            new.append(p - tensor.basis.back(step))
        params = new
    return params


def program(optimizer, horizon=HORIZON):
    """Compiled: (theta, grads, losses, params) -> the params after each step, [steps, ...]. Under x64 it is float64 end
    to end: the accumulators are float32 by contract, so they are lifted."""

    def path(theta, grads, losses, params):
        tx = optimizer.build(theta, horizon)

        def step(carry, given):
            (params, state), (g, value) = carry, given
            updates, state = tx.update(g, state, params, value=value)
            params = [p + u for p, u in zip(params, updates, strict=True)]
            return (params, state), params

        state = tx.init(params)
        if jax.config.jax_enable_x64:
            state = jax.tree.map(lambda x: x if jnp.issubdtype(x.dtype, jnp.integer) else x.astype(float), state)
        return jax.lax.scan(step, (params, state), (grads, losses))[1]

    compiled = quick_jit(path)

    def run(theta, grads, losses, params):
        grads = [np.stack(g) for g in zip(*grads, strict=True)]
        return [np.asarray(p) for p in compiled(theta, grads, losses, list(map(jnp.asarray, params)))]

    return run


def problem(rng, steps=STEPS, shapes=SHAPES, dtype=np.float64):
    """Gradients, in float32's numbers, losses that rise once above what a loss counts at most, params."""
    draw = partial(rng.standard_normal)
    grads = [[np.float32(draw(s) + 0.5).astype(dtype) for s in shapes] for _ in range(steps)]
    losses = np.concatenate([[1.0, 5.0], np.linspace(1.5, 0.25, steps - 2)]) + 0.1 * draw(steps)
    params = [(0.2 * (1 + i) * np.asarray(draw(s))).astype(dtype) for i, s in enumerate(shapes)]
    return grads, losses.astype(dtype), params


def loud(theta):
    """Last layers of the usual size."""
    theta = jax.tree.map(np.copy, theta)
    for layer in [theta["coordinate"], theta.get("tensor", {}).get("out", {})]:
        for name in {"w2", "w"} & set(layer):
            layer[name] *= 10
    return theta


CASES = {
    "default": {},
    "momenta": {"momenta": (0.5, 0.9, 0.99, 0.999), "features": ("ratios", "gradient")},
    "learned": {"direction": "learned"},
    "anchor": {"schedule": False},
    "not turned": {"side": 0},
    "columns": {"side": 5, "every": 1},
    "neither": {"direction": "learned", "schedule": False, "features": ("parameter", "momenta")},
}


@pytest.mark.parametrize("arguments", CASES.values(), ids=CASES)
def test_equation(arguments, x64):
    """In float64, so that only a wrong equation can differ; ranks 0 to 4, a large tensor, and two steps beyond the
    horizon."""
    rng = np.random.default_rng(0)
    optimizer = anchored(**arguments)
    theta = loud(moved_theta(optimizer, rng))
    grads, losses, params = problem(rng)
    ours = program(optimizer)(theta, grads, losses, params)
    for p, q, start in zip(ours, equation(theta, grads, losses, params, **arguments), params, strict=True):
        # g, p and the loss pass through float32 inside: 1e-5 of the way gone
        np.testing.assert_allclose(p[-1], q, rtol=0, atol=1e-5 * np.abs(q - start).max())


def test_a_fresh_theta_is_adam_with_relative_steps_on_a_cosine(x64):
    """Without the last layers' weights exactly, with them up to noise; and so is what leaves both networks out."""
    rng = np.random.default_rng(1)
    grads, losses, params = problem(rng)
    start = {"peak": np.log(0.02), "warmup": np.log(0.05 / 0.45)}
    hand = equation({"anchor": start}, grads, losses, params, direction="adam", schedule=False)
    fresh = anchored().init(KEY)
    silent = jax.tree.map(np.copy, fresh)
    silent["coordinate"]["w2"] *= 0
    silent["tensor"]["out"]["w"] *= 0
    full, neither = program(anchored()), program(anchored(direction="adam", schedule=False))
    for run, theta, noise in [(full, silent, 1e-5), (full, fresh, 0.3), (neither, {"anchor": fresh["anchor"]}, 1e-5)]:
        for p, q, before in zip(run(theta, grads, losses, params), hand, params, strict=True):
            assert np.linalg.norm(p[-1] - q) < noise * np.linalg.norm(q - before)


@pytest.mark.parametrize("bound", [10.0, 2.0])
def test_no_theta_leaves_the_bounds(bound):
    """Weights of ten: RMS(step) <= scale · anchor · bound, up to rounding; the schedule alone, along Adam's direction,
    which is one at a constant gradient, stays above 1/bound as well, but for a rest of 3 at most; and reaches both
    ends."""
    ratios = {"steered": [], "adam": []}
    for direction, found in ratios.items():
        optimizer = anchored(bound=bound, direction=direction, side=0 if direction == "adam" else 64)
        run, shapes = program(optimizer), jax.eval_shape(optimizer.init, KEY)
        for seed in range(4):
            rng = np.random.default_rng(seed)
            theta = jax.tree.map(lambda x, d=rng.standard_normal: 10 * d(x.shape, np.float32), shapes)
            theta["anchor"] = {"peak": np.float32(np.log(0.02)), "warmup": np.float32(0)}
            grads, losses, params = problem(rng, dtype=np.float32)
            grads = grads if direction == "steered" else [grads[0]] * STEPS
            path = [
                np.concatenate([p[None], q]) for p, q in zip(params, run(theta, grads, losses, params), strict=True)
            ]
            for t in range(STEPS):
                scale, _ = scales([p[t] for p in path])
                rms = [np.sqrt(np.mean(np.square(p[t + 1] - p[t]))) for p in path]
                found += list(np.array(rms) / scale / anchor(theta["anchor"], t, HORIZON))
    low = 1 / np.sqrt(1 + 3**2) / bound
    lost = 2.0**-24 / (0.02 * 0.01 * low)  # half an ulp of a parameter beside the smallest step of all
    assert max(map(max, ratios.values())) < bound * (1 + lost)
    assert low * (1 - lost) < min(ratios["adam"]) < 1.1 * low and bound / 1.1 < max(ratios["adam"])


def test_units_do_not_matter():
    """Of the loss, or of the parameters: the step is the same, in those units. They are powers of two, which float32
    multiplies by exactly: trends of a loss are differences that have few digits left."""
    rng, optimizer = np.random.default_rng(0), anchored()
    theta = loud(jax.tree.map(np.asarray, optimizer.init(KEY)))
    grads, losses, params = problem(rng, steps=5, dtype=np.float32)
    params = [p + np.float32(1) for p in params]
    run = program(optimizer)
    reference = run(theta, grads, losses, params)
    for of_loss, of_params in [(2**-10, 1), (2**20, 1), (1, 2**-3), (2**-7, 2**7)]:
        change = np.float32(of_loss / of_params)
        scaled = [[change * g for g in gs] for gs in grads]
        start = [np.float32(of_params) * p for p in params]
        after = run(theta, scaled, np.float32(of_loss) * losses, start)
        for p, q in zip(after, reference, strict=True):
            # what is added to squares, 1e-24, is all that has a unit; at a turned coordinate without gradients it is
            # beside 1e-8 mean(v), 1e-11 g^2 here: up to 2.7e-5 of it, half of that of each of 5 steps of 0.05
            np.testing.assert_allclose(p[-1] / np.float32(of_params), q[-1], rtol=0, atol=4e-6)


def test_what_has_no_gradient_stays():
    """A row that is not in use, and a tensor that is not; whatever theta says."""
    rng, optimizer = np.random.default_rng(0), anchored()
    theta = jax.tree.map(lambda x: rng.standard_normal(x.shape, np.float32), optimizer.init(KEY))
    grads, losses, params = problem(rng, steps=5, shapes=[(6, 4), (3,), (40, 30)], dtype=np.float32)
    for g in grads:
        g[0][2], g[1][:], g[2][:, 5] = 0, 0, 0
    after = program(optimizer)(theta, grads, losses, params)
    moved = [p != q[-1] for p, q in zip(params, after, strict=True)]
    assert moved[0][[0, 1, 3, 4, 5]].all() and not moved[0][2].any()
    assert not moved[1].any()
    assert np.delete(moved[2], 5, axis=1).mean() > 0.9 and not moved[2][:, 5].any()


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"direction": "sgd"}, "direction: .* got 'sgd'"),
        ({"features": ("loss",)}, "features: .* got .'loss'"),
        ({"features": ()}, "features: .* got "),
        ({"momenta": ()}, "momenta: "),
        ({"bound": 0.5}, "bound: .* got 0.5"),
        ({"every": 0}, "every: .* got 0"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        anchored(**arguments)
