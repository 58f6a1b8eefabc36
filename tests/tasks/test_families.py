"""Each family against its equation, written out in numpy or taken from another library."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from metaopt.data import DataError, load
from metaopt.tasks import _nets
from metaopt.tasks.functions import rosenbrock
from metaopt.tasks.image_autoencoder import image_autoencoder
from metaopt.tasks.image_mlp import image_mlp
from metaopt.tasks.quadratic import quadratic
from tests.tasks.cases import draw, evaluate, fast_jit, problem, value_and_grad

KEY = jax.random.key(3)
ULP = 2.0**-23  # float32


def test_classifier_is_softmax_cross_entropy_of_an_mlp():
    task = image_mlp("wine", hidden=(8, 5), activation="tanh", batch_size=16)
    cfg, params, batch, _ = draw(task, KEY)
    assert jax.tree.map(jnp.shape, params) == {
        "w0": (13, 8), "b0": (8,), "w1": (8, 5), "b1": (5,), "w2": (5, 3), "b2": (3,),
    }  # fmt: skip
    params = {k: v + np.float32(0.1) for k, v in params.items()}  # biases at work
    loss, aux, normalized = evaluate(task, cfg, params, batch, KEY)

    p, x, y = jax.tree.map(np.float64, params), np.float64(batch["x"]), np.asarray(batch["y"])
    logits = np.tanh(np.tanh(x @ p["w0"] + p["b0"]) @ p["w1"] + p["b1"]) @ p["w2"] + p["b2"]
    want = -np.log(special.softmax(logits, axis=-1)[np.arange(16), y]).mean()
    np.testing.assert_allclose(loss, want, rtol=100 * ULP)
    np.testing.assert_allclose(aux["accuracy"], (logits.argmax(axis=-1) == y).mean(), rtol=ULP)
    np.testing.assert_allclose(normalized, want / np.log(3), rtol=100 * ULP)


def test_mup_classifier_divides_the_inputs_of_its_last_layer():
    standard, mup = (image_mlp("wine", hidden=(8, 5), batch_size=16, parametrization=p) for p in ("standard", "mup"))
    cfg, params, batch, _ = draw(mup, KEY)
    params = {k: v + np.float32(0.1) for k, v in params.items()}  # biases at work
    got, *_ = evaluate(mup, cfg, params, batch, KEY)
    want, *_ = evaluate(standard, cfg, params | {"w2": params["w2"] / 5}, batch, KEY)
    np.testing.assert_allclose(got, want, rtol=100 * ULP)


def test_no_hidden_layer_is_softmax_regression():
    task = image_mlp("wine", hidden=())
    assert set(jax.eval_shape(lambda key: task.init({"init_scale": 1.0}, key), KEY)) == {"w0", "b0"}


def test_initial_weights_have_the_documented_scale():
    """A sample deviation of n draws is within 5 of its own deviations, 1 / sqrt(2 n), of the true one."""
    for parametrization, stds in (
        ("standard", (np.sqrt(2 / 200), np.sqrt(2 / 100), np.sqrt(1 / 80))),
        ("mup", (np.sqrt(1 / 200), np.sqrt(1 / 100), 1)),
    ):
        params = fast_jit(
            partial(_nets.mlp_init, sizes=(200, 100, 80, 50), scale=0.5, parametrization=parametrization)
        )(KEY)
        for name, std in zip(("w0", "w1", "w2"), stds, strict=True):
            np.testing.assert_allclose(params[name].std(), 0.5 * std, rtol=5 / np.sqrt(2 * params[name].size))
        assert not params["b0"].any()


def test_minibatches_are_rows_of_the_split_drawn_evenly():
    n, draws = 7, 70_000
    rows = {"x": np.arange(n, dtype=np.float32)[:, None], "y": np.arange(n)}
    batch = jax.tree.map(np.asarray, fast_jit(lambda key: _nets.minibatch(rows, key, draws))(KEY))
    assert (batch["x"][:, 0] == batch["y"]).all()
    counts = np.bincount(batch["y"], minlength=n)
    assert np.abs(counts - draws / n).max() < 5 * np.sqrt(draws / n)  # five standard deviations


def test_bytes_become_unit_range_in_the_minibatch():
    x = fast_jit(lambda key: _nets.minibatch({"x": np.array([[0], [51], [255]], np.uint8)}, key, 64)["x"])(KEY)
    assert x.dtype == jnp.float32
    np.testing.assert_allclose(np.unique(x), [0.0, 0.2, 1.0], rtol=2 * ULP)


def test_scales_are_log_uniform_between_the_ends():
    """log10 of 1000 draws from [0.01, 1]: mean -1 within five of its deviations, 2 / sqrt(12 * 1000)."""
    task = image_mlp("wine", init_scale=(0.01, 1.0))
    scales = np.asarray(fast_jit(jax.vmap(task.sample))(jax.random.split(KEY, 1000))["init_scale"])
    assert 0.01 <= scales.min() < 0.011 and 0.9 < scales.max() <= 1.0
    np.testing.assert_allclose(np.log10(scales).mean(), -1.0, atol=5 * 2 / np.sqrt(12_000))
    init = fast_jit(lambda scale: task.init({"init_scale": scale}, KEY))
    for one, quarter in zip(*map(jax.tree.leaves, (init(1.0), init(0.25))), strict=True):
        np.testing.assert_array_equal(0.25 * np.asarray(one), quarter)


def test_autoencoder_loss_is_relative_to_the_variance_of_the_data():
    task = image_autoencoder("digits", hidden=(4,), batch_size=32)
    cfg, params, batch, data = draw(task, KEY)
    params = jax.tree.map(np.zeros_like, params)  # predicts the mean
    train = load("digits")["train"]["x"].reshape(-1, 64)
    np.testing.assert_allclose(data["test"]["std"] ** 2, train.var(axis=0).mean(), rtol=1e-5)

    everything = (data["train"]["x"] - data["train"]["mean"][None]) / data["train"]["std"]
    loss, _, normalized = evaluate(task, cfg, params, {"x": everything}, KEY)
    np.testing.assert_allclose((loss, normalized), (1.0, 0.5), rtol=1e-5)  # float32 means over 80,000 numbers
    some, *_ = evaluate(task, cfg, params, batch, KEY)
    np.testing.assert_allclose(some, np.mean(np.float64(batch["x"]) ** 2), rtol=100 * ULP)


def test_a_fresh_autoencoder_is_at_one():
    """He's weights keep the mean square of ReLUs, so the output's is the data's, 1, and the loss 1 + 1 in expectation;
    the mean of 200 members within five of its deviations."""
    task = image_autoencoder("digits", hidden=(64, 64))
    data = task.data()

    @fast_jit
    @jax.vmap
    def fresh(key):
        cfg, params, batch = problem(task, data, key)
        return task.normalize(cfg, task.loss(cfg, params, batch, key)[0])

    losses = fresh(jax.random.split(KEY, 200))
    np.testing.assert_allclose(losses.mean(), 1, atol=5 * losses.std() / np.sqrt(200))
    assert losses.std() < 0.2


def test_quadratic_is_the_published_one():
    task = quadratic(dim=6)
    (cfg, *_), x = draw(task, KEY), np.linspace(-1, 1, 6, dtype=np.float32)
    w, y = np.float64(cfg["w"]), np.float64(cfg["y"])
    loss, grad = fast_jit(lambda x: value_and_grad(task, cfg, {"x": x}, {}, KEY))(x)
    np.testing.assert_allclose(loss, ((w @ x - y) ** 2).sum(), rtol=100 * ULP)
    np.testing.assert_allclose(grad["x"], 2 * w.T @ (w @ x - y), rtol=1e-5, atol=1e-5)


def test_conditioned_quadratic_has_the_promised_spectrum_and_minimum():
    task = quadratic(dim=8, condition=100.0)
    cfg, *_ = draw(task, KEY)
    w, y = np.float64(cfg["w"]), np.float64(cfg["y"])
    np.testing.assert_allclose(np.linalg.eigvalsh(w.T @ w), np.geomspace(0.01, 1, 8), rtol=1e-4)
    best = np.linalg.solve(w, y)
    assert evaluate(task, cfg, {"x": np.float32(best)}, {}, KEY)[0] < 1e-10
    assert 0.2 < np.linalg.norm(best) / np.sqrt(8) < 2


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: image_mlp(activation="rellu"), "unknown 'rellu', expected one of relu"),
        (lambda: image_autoencoder(activation=""), "activation"),
        (lambda: image_mlp(parametrization="ntk"), "unknown 'ntk', expected one of standard, mup"),
        (lambda: quadratic(condition=0.5), "condition: 0.5"),
        (lambda: rosenbrock(dim=1), "dim: 1"),
    ],
)
def test_wrong_arguments_are_errors_at_once(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_missing_data_set_is_an_error_when_it_is_needed():
    task = image_mlp("tfds:not_here")
    with pytest.raises(DataError, match="not_here"):
        task.data()
