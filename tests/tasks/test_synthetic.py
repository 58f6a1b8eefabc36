"""Families without a data set against their equations, in numpy or by a property that only the right one has."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize

from metaopt.tasks import functions
from metaopt.tasks.coordinate_network import coordinate_network
from metaopt.tasks.matrix_factorization import matrix_factorization
from metaopt.tasks.meta_training import meta_training
from metaopt.tasks.normalizing_flow import normalizing_flow
from metaopt.tasks.quadratic import quadratic
from metaopt.tasks.taskset_quadratic import taskset_quadratic
from metaopt.tasks.two_moons import two_moons
from tests.tasks.cases import draw, evaluate, fast_jit

KEY = jax.random.key(3)
ULP = 2.0**-23  # float32

TERMS = {  # the usual definitions, at (x, y)
    "valley": lambda x, y: (x - y) ** 2 / 2,
    "ackley": lambda x, y: (
        -20 * np.exp(-0.2 * np.sqrt(0.5 * (x**2 + y**2)))
        - np.exp(0.5 * (np.cos(2 * np.pi * x) + np.cos(2 * np.pi * y)))
        + np.e
        + 20
    ),
    "beale": lambda x, y: (1.5 - x + x * y) ** 2 + (2.25 - x + x * y**2) ** 2 + (2.625 - x + x * y**3) ** 2,
    "styblinski_tang": lambda x, y: sum(v**4 - 16 * v**2 + 5 * v for v in (x, y)) / 2 + 2 * 39.16616570377142,
    "rosenbrock": lambda x, y: optimize.rosen([x, y]),
}
MINIMA = {
    "valley": (0.7, 0.7),
    "ackley": (0.0, 0.0),
    "beale": (3.0, 0.5),
    "styblinski_tang": (-2.903534, -2.903534),
    "rosenbrock": (1.0, 1.0),
}


@pytest.mark.parametrize("name", TERMS)
def test_functions_are_the_usual_ones(name):
    """Absolute tolerance: Ackley's terms are near 20 and cancel."""
    task, points = getattr(functions, name)(), [(0.5, -1.2), (2.0, 0.1), (-1.5, 0.3), MINIMA[name]]
    cfg, *_ = draw(task, KEY)
    losses = fast_jit(jax.vmap(lambda x: task.loss(cfg, {"x": x}, {}, KEY)[0]))(np.float32(points))
    np.testing.assert_allclose(losses, [TERMS[name](*p) for p in np.float64(points)], rtol=100 * ULP, atol=200 * ULP)
    assert abs(losses[-1]) < 1e-4


def test_a_bowl_has_the_promised_spectrum():
    task = functions.bowl(condition=50.0)
    cfg, *_ = draw(task, KEY)
    hessian = fast_jit(jax.hessian(lambda x: task.loss(cfg, {"x": x}, {}, KEY)[0]))(jnp.ones(2))
    np.testing.assert_allclose(np.linalg.eigvalsh(hessian), [1, 50], rtol=1e-4)
    assert abs(hessian[0, 1]) > 1  # turned


@pytest.mark.parametrize(
    "task",
    [
        quadratic(5),
        quadratic(20, condition=50.0),
        functions.rosenbrock(3, steepness=0.5),
        functions.bowl(condition=30.0),
        functions.valley(scale=(0.1, 10.0)),
        functions.ackley(scale=3.0),
        functions.beale(),
        functions.styblinski_tang(),
        matrix_factorization(condition=5.0, init_scale=1e-3, batch_size=64),
    ],
)
def test_synthetic_problems_start_at_one_on_average(task):
    """Mean of 4000 fresh losses against the expectation, within five standard errors of the mean; at most 1 % of them
    are cut off at ten."""

    def fresh(key):
        cfg = task.sample(key)
        batch = task.batch(cfg, {}, key, "train")
        return task.normalize(cfg, task.loss(cfg, task.init(cfg, key), batch, key)[0])

    losses = np.float64(fast_jit(jax.vmap(fresh))(jax.random.split(KEY, 4000)))
    assert (losses == 10).mean() < 0.01
    np.testing.assert_allclose(losses.mean(), 1.0, atol=5 * losses.std() / np.sqrt(4000))


def test_taskset_quadratics_come_in_four_kinds_with_and_without_logarithm_and_noise():
    task, number = taskset_quadratic(dim=6), 400

    @fast_jit
    @jax.vmap
    def program(key):
        cfg = task.sample(key)
        x = task.init(cfg, key)
        return cfg, x, task.loss(cfg, x, {}, key)[0], task.loss({**cfg, "noise": 0.0}, x, {}, key)[0]

    cfg, params, noisy, loss = jax.tree.map(np.float64, program(jax.random.split(KEY, number)))
    values = np.sum(np.einsum("nij,nj->ni", cfg["a"], params["x"] - cfg["minimum"]) ** 2, axis=-1)
    want = cfg["scale"] * np.where(cfg["log"], np.log1p(values), values)
    np.testing.assert_allclose(loss, want, rtol=1e-4)
    five = 5 * np.sqrt(number / 4)  # deviations of a fair coin's count
    assert abs(cfg["log"].sum() - number / 2) < five and abs((cfg["noise"] > 0).sum() - number / 2) < five
    assert ((noisy == loss) == (cfg["noise"] == 0)).all()

    symmetric = np.abs(cfg["a"] - cfg["a"].swapaxes(1, 2)).max(axis=(1, 2)) < 1e-3 * np.abs(cfg["a"]).max(axis=(1, 2))
    positive = (cfg["a"] >= 0).all(axis=(1, 2))
    spectra = np.linalg.eigvalsh(cfg["a"][symmetric])
    even = np.abs(spectra[:, 4] / spectra[:, 5] - 0.8) < 1e-3
    assert abs(symmetric.sum() - number / 2) < five and abs(even.sum() - number / 4) < five
    assert abs((positive & ~symmetric).sum() - number / 4) < five
    assert spectra[:, 5].min() >= 0.9 and spectra[:, 5].max() <= 1001
    np.testing.assert_allclose(
        spectra[~even][:, 4] / spectra[~even][:, 5], (1e-5 / spectra[~even][:, 5]) ** 0.2, rtol=0.01
    )


def test_the_right_factors_have_no_loss_and_zeros_have_one():
    task = matrix_factorization(rows=5, columns=4, rank=3, condition=9.0)
    cfg, params, *_ = draw(task, KEY)
    m = np.float64(cfg["a"]) @ np.float64(cfg["b"]).T
    i, j = (index.ravel() for index in np.indices(m.shape))
    everything = {"i": i, "j": j, "m": np.float32(m[i, j])}
    turn = np.linalg.qr(np.random.default_rng(0).standard_normal((3, 3)))[0].astype(np.float32)
    assert evaluate(task, cfg, {"u": cfg["a"] @ turn, "v": cfg["b"] @ turn}, everything, KEY)[0] < 1e-10
    loss, _, normalized = evaluate(task, cfg, jax.tree.map(np.zeros_like, params), everything, KEY)
    np.testing.assert_allclose(loss, (m**2).mean(), rtol=1e-5)
    np.testing.assert_allclose(normalized, 1, rtol=1e-5)
    norms = np.linalg.norm(cfg["a"], axis=0)
    assert norms.shape == (3,) and cfg["b"].shape == (4, 3)


def test_a_coordinate_network_is_made_of_sines():
    task = coordinate_network(hidden=(7, 6), omega=5.0, batch_size=16)
    cfg, p, batch, _ = draw(task, KEY)
    assert np.abs(p["w0"]).max() <= 1 / 2 and np.abs(p["b0"]).max() <= 1 / 2
    assert 0.9 * np.sqrt(6 / 7) / 5 < np.abs(p["w1"]).max() <= np.sqrt(6 / 7) / 5
    x = np.float64(batch["x"])
    h = np.sin(5 * (np.sin(5 * (x @ p["w0"] + p["b0"])) @ p["w1"] + p["b1"])) @ p["w2"] + p["b2"]
    y = np.sqrt(2 / 8) * np.cos(x @ np.float64(cfg["b"]).T + cfg["c"]).sum(axis=-1)
    np.testing.assert_allclose(batch["y"], y, atol=1e-5)
    np.testing.assert_allclose(evaluate(task, cfg, p, batch, KEY)[0], ((h[:, 0] - y) ** 2).mean(), rtol=1e-4)


def test_a_flow_and_its_target_are_densities():
    """exp(log q) and exp(log p) sum to one over a fine grid. The loss of one point is log p - log q; with zero weights
    a flow is the standard normal."""
    task = normalizing_flow(layers=3, hidden=5, modes=3, spread=0.4)
    cfg, params, batch, _ = draw(task, KEY)
    params = jax.tree.map(lambda w: w + 0.3, params)  # far from the identity
    axis = np.linspace(-16, 16, 321, dtype=np.float32)
    grid = np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2)

    @fast_jit
    def log_ratios(params):
        return jax.vmap(lambda x: task.loss(cfg, params, {"x": x[None]}, KEY)[0])(grid)

    log_normal = -(np.float64(grid) ** 2).sum(axis=-1) / 2 - np.log(2 * np.pi)
    log_p = log_normal + np.float64(log_ratios(jax.tree.map(np.zeros_like, params)))
    p, q = np.exp(log_p), np.exp(log_p - np.float64(log_ratios(params)))
    np.testing.assert_allclose([p.sum() * 0.1**2, q.sum() * 0.1**2], 1, atol=0.01)
    centre = (p[:, None] * grid).sum(axis=0) * 0.1**2
    np.testing.assert_allclose(centre, cfg["centres"].mean(axis=0), atol=0.02)
    nearest = np.linalg.norm(batch["x"][:, None] - cfg["centres"], axis=-1).min(axis=1)
    assert np.sqrt((nearest**2).mean() / 2) < 1.3 * 0.4  # minibatches are of that density


def test_moons_are_half_circles():
    task = two_moons(hidden=(5,), activation="tanh", noise=1e-6, batch_size=64)
    cfg, p, batch, _ = draw(task, KEY)
    c, s = np.cos(cfg["angle"]), np.sin(cfg["angle"])
    x, t = batch["x"] @ np.array([[c, -s], [s, c]]), batch["t"]  # turned back
    local = (x + np.stack([t / 2, t / 4], axis=-1)) * np.stack([np.ones_like(t), t], axis=-1)
    np.testing.assert_allclose(np.linalg.norm(local, axis=-1), 1, atol=1e-4)
    assert local[:, 1].min() > -1e-4 and 16 < (t > 0).sum() < 48
    z = (np.tanh(batch["x"] @ p["w0"] + p["b0"]) @ p["w1"] + p["b1"])[:, 0]
    loss, aux, _ = evaluate(task, cfg, p, batch, KEY)
    np.testing.assert_allclose(loss, np.log1p(np.exp(-t * z)).mean(), rtol=1e-4)
    np.testing.assert_allclose(aux["accuracy"], ((z > 0) == (t > 0)).mean(), rtol=ULP)


def test_meta_training_unrolls_its_rule_on_quadratics():
    task = meta_training(dim=3, steps=4, hidden=5, condition=20.0, batch_size=6)
    cfg, p, batch, _ = draw(task, KEY)
    p = jax.tree.map(lambda w: w + np.float32(0.1), p)
    h, minimum = np.float64(batch["h"]), np.float64(batch["minimum"])
    spectra = np.linalg.eigvalsh(h)
    assert spectra.min() > 0.9 / 20 and spectra.max() < 1.001 and np.ptp(spectra) > 0.5
    x, m, ratios = np.zeros((6, 3)), np.zeros((6, 3)), []

    def f(x):
        return np.einsum("ni,nij,nj->n", x - minimum, h, x - minimum) / 2

    for _ in range(4):
        g = np.einsum("nij,nj->ni", h, x - minimum)
        m = 0.9 * m + 0.1 * g
        hidden = np.tanh(np.stack([g, m], axis=-1) @ p["w0"] + p["b0"])
        x = x - cfg["step_size"] * (hidden @ p["w1"] + p["b1"])[..., 0]
        ratios.append(f(x) / f(np.zeros((6, 3))))
    np.testing.assert_allclose(evaluate(task, cfg, p, batch, KEY)[0], np.mean(ratios), rtol=1e-4)
