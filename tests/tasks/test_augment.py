"""Wrappers: the same problems in other clothes, and gradients that are changed as promised while values are not."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from metaopt.tasks import TASKS, augment, make
from metaopt.tasks.image_mlp import image_mlp
from metaopt.tasks.quadratic import quadratic
from tests.tasks.cases import WRAPPERS, fast_jit, problem, value_and_grad

KEY = jax.random.key(5)
ULP = 2.0**-23  # float32
NET = {"dataset": "wine", "hidden": (8, 6), "batch_size": 16}


def both(wrapped, base=None):
    """(cfg, params, batch, loss, grads) of the wrapped task and of its base, from the same key; one program."""
    base = base or image_mlp(**NET)

    @fast_jit
    def program(data, key):
        def one(task):
            made = problem(task, data, key)
            return *made, *value_and_grad(task, *made, key)

        return one(wrapped), one(base)

    return jax.tree.map(np.asarray, program(base.data(), KEY))


def leaves(tree):
    return {name: np.float64(leaf) for name, leaf in tree.items()}


@pytest.mark.parametrize("name", WRAPPERS)
def test_every_wrapper_learns_under_vmap_without_recompiling(name):
    """Adam in a scan, over members: finite and falling losses; another base is an argument of an entry."""
    task, tx, traces = make({"name": name, "base": {"name": "image_mlp", **NET, "hidden": []}}), optax.adam(0.02), 0

    @fast_jit
    @jax.vmap
    def curve(key):
        nonlocal traces
        traces += 1
        cfg, params, _ = problem(task, data, key)

        def step(carry, key):
            params, state = carry
            loss, grads = value_and_grad(task, cfg, params, task.batch(cfg, data, key, "train"), key)
            updates, state = tx.update(grads, state)
            return (optax.apply_updates(params, updates), state), task.normalize(cfg, loss)

        return jax.lax.scan(step, (params, tx.init(params)), jax.random.split(key, 60))[1]

    data = task.data()
    curves = np.concatenate([curve(jax.random.split(jax.random.key(seed), 3)) for seed in (0, 1)])
    assert traces == 1 and np.isfinite(curves).all()
    assert curves[:, -5:].mean() < 0.6 * curves[:, :3].mean()


@pytest.mark.parametrize("scope", ["global", "tensor", "parameter"])
def test_scales_leave_the_function_and_multiply_the_gradient(scope):
    """loss'(p') = loss(s p'), so at p' = p / s the value is the base's and the gradient s times the base's."""
    wrapped, base = both(augment.reparametrized(image_mlp(**NET), scope, 0.1, 10.0))
    (cfg, params, _, loss, grads), (_, base_params, _, base_loss, base_grads) = wrapped, base
    scale = leaves(cfg["scale"])
    np.testing.assert_allclose(loss, base_loss, rtol=100 * ULP)
    for name in params:
        np.testing.assert_allclose(params[name] * scale[name], base_params[name], rtol=4 * ULP)
        np.testing.assert_allclose(grads[name], scale[name] * base_grads[name], rtol=1e-4, atol=1e-5)
    number = {"global": 1, "tensor": len(params), "parameter": sum(p.size for p in params.values())}[scope]
    values = np.concatenate([s.ravel() for s in scale.values()])
    assert len(np.unique(values)) == number and 0.1 <= values.min() <= values.max() <= 10


def test_scales_are_log_uniform_and_one_a_member():
    """log10 of 500 draws from [0.1, 10]: mean 0 within five of its deviations, 2 / sqrt(12 * 500)."""
    task = augment.reparametrized(quadratic(3), "global")
    scales = fast_jit(jax.vmap(task.sample))(jax.random.split(KEY, 500))["scale"]["x"]
    np.testing.assert_allclose(np.log10(scales).mean(), 0, atol=5 * 2 / np.sqrt(12 * 500))
    assert scales.min() < 0.12 and scales.max() > 8


def test_small_batches_are_the_first_rows():
    wrapped, base = both(augment.small_batches(image_mlp(**NET), 5))
    for name, leaf in wrapped[2].items():
        np.testing.assert_array_equal(leaf, base[2][name][:5])
    assert augment.small_batches(quadratic(3), 5).batch({}, {}, KEY, "train") == {}


def test_few_batches_are_a_members_own_and_drawn_equally_often():
    """n of them: each as often as the others, within five deviations of a binomial; other splits, fresh weights, and
    the loss are the base's."""
    base, draws = image_mlp(**NET), 3000
    task, data = augment.few_batches(base, 5, 5), base.data()
    cfgs = [task.sample(key) for key in jax.random.split(KEY, 2)]
    found = []
    for cfg in cfgs:
        x = fast_jit(jax.vmap(lambda key, c=cfg: task.batch(c, data, key, "train")["x"]))(jax.random.split(KEY, draws))
        batches, counts = np.unique(np.asarray(x).reshape(draws, -1), axis=0, return_counts=True)
        assert len(batches) == 5 and np.abs(counts - draws / 5).max() < 5 * np.sqrt(draws * 0.2 * 0.8)
        found.append(batches)
    assert not np.isin(*(batches.sum(axis=1) for batches in found)).any()

    cfg = cfgs[0]
    params, of_base = task.init(cfg, KEY), base.init(cfg["base"], KEY)
    jax.tree.map(np.testing.assert_array_equal, params, of_base)
    batch = task.batch(cfg, data, KEY, "test")
    jax.tree.map(np.testing.assert_array_equal, batch, base.batch(cfg["base"], data, KEY, "test"))
    assert task.loss(cfg, params, batch, KEY)[0] == base.loss(cfg["base"], params, batch, KEY)[0]


def test_numbers_of_batches_are_log_uniform():
    """P(n < k) = log(k) / log(high + 1), low 1: of 1,000 draws within five deviations."""
    numbers = jax.vmap(lambda key: augment.few_batches(quadratic(3), 1, 99).sample(key)["number"])(
        jax.random.split(KEY, 1000)
    )
    assert numbers.min() == 1 and 90 < numbers.max() <= 99
    for k in (2, 10, 50):
        expected = np.log(k) / np.log(100)
        assert abs(np.mean(numbers < k) - expected) < 5 * np.sqrt(expected * (1 - expected) / 1000)


def test_noise_has_the_promised_size_and_leaves_the_value():
    """(g' - g) / rms(g) is std N(0, I): over n = 1280 entries its deviation is within 5 / sqrt(2 n) of std."""
    net = {**NET, "hidden": (98,)}
    (*_, loss, noisy), (*_, base_loss, grads) = both(augment.noisy_gradients(image_mlp(**net), 0.3), image_mlp(**net))
    assert loss == base_loss
    noise = {k: (np.float64(noisy[k]) - grads[k]) / np.sqrt(np.mean(np.float64(grads[k]) ** 2)) for k in grads}
    np.testing.assert_allclose(noise["w0"].std(), 0.3, rtol=5 / np.sqrt(2 * noise["w0"].size))
    np.testing.assert_allclose(noise["w0"].mean(), 0, atol=5 * 0.3 / np.sqrt(noise["w0"].size))
    flat = np.concatenate([n.ravel() for n in noise.values()])
    assert len(np.unique(flat)) > 0.99 * flat.size  # all drawn by themselves


def test_normalized_gradients_keep_the_direction():
    for scope in ("global", "tensor"):
        (*_, loss, got), (*_, base_loss, grads) = both(augment.normalized_gradients(image_mlp(**NET), scope))
        assert loss == base_loss
        whole = np.sqrt(sum((g**2).sum() for g in leaves(grads).values()))
        for name, g in leaves(grads).items():
            norm = whole if scope == "global" else np.linalg.norm(g)
            np.testing.assert_allclose(got[name], g / norm, rtol=1e-4, atol=1e-6)


def test_low_rank_gradients_are_projections():
    """Q Q^T g is of rank r, and what is cut off is orthogonal to what is left."""
    (*_, loss, got), (*_, base_loss, grads) = both(augment.low_rank_gradients(image_mlp(**NET), 2))
    assert loss == base_loss
    for name, g in leaves(grads).items():
        if min(g.shape) <= 2 or g.ndim == 1:
            np.testing.assert_array_equal(got[name], np.float32(g))
        else:
            values = np.linalg.svd(np.float64(got[name]), compute_uv=False)
            assert values[1] > 1e-3 * values[0] and values[2] < 1e-5 * values[0]
            assert abs(np.sum(got[name] * (g - got[name]))) < 1e-5 * np.sum(g**2)
    assert np.linalg.norm(got["w1"]) < 0.999 * np.linalg.norm(grads["w1"])  # that of w2 is of rank 2 by itself


def test_changed_gradients_have_their_own_second_derivatives():
    """g / ||g|| of a quadratic: its Jacobian is (I - u u^T) H / ||g||, u = g / ||g||, H = 2 W^T W."""
    base = quadratic(4)
    task = augment.normalized_gradients(base)
    cfg, params, batch = problem(base, {}, KEY)
    x = {"x": params["x"] + 0.5}

    def gradient(task):
        return jax.grad(lambda p: task.loss(cfg, p, batch, KEY)[0])

    got = fast_jit(jax.jacrev(gradient(task)))(x)["x"]["x"]
    w, y = np.float64(cfg["w"]), np.float64(cfg["y"])
    g = 2 * w.T @ (w @ np.float64(x["x"]) - y)
    u = g / np.linalg.norm(g)
    np.testing.assert_allclose(
        got, (np.eye(4) - np.outer(u, u)) @ (2 * w.T @ w) / np.linalg.norm(g), rtol=1e-3, atol=1e-4
    )


def test_delays_add_up_and_survive_other_wrappers():
    late = augment.delayed_gradients(augment.delayed_gradients(quadratic(3), 2), 3)
    assert quadratic(3).delay == 0 and late.delay == 5
    wrapped = {name: TASKS[name](base=late).delay for name in WRAPPERS}
    assert wrapped == {**dict.fromkeys(WRAPPERS, 5), "delayed_gradients": 5 + 4}
    nested = make(
        {"name": "few_batches", "base": {"name": "delayed_gradients", "delay": 2, "base": {"name": "quadratic"}}}
    )
    assert nested.delay == 2


def test_bfloat16_parameters_gradients_and_a_float32_loss():
    (_, params, _, loss, grads), (*_, base_loss, _) = both(augment.bfloat16(image_mlp(**NET)))
    assert {leaf.dtype for leaf in jax.tree.leaves((params, grads))} == {jnp.dtype(jnp.bfloat16)}
    assert loss.dtype == np.float32
    np.testing.assert_allclose(loss, base_loss, rtol=0.05)


def test_a_vanishing_gradient_stays_finite():
    """At the minimum of a quadratic: 0 / 0 would be in the norms."""
    cfg, base = {"w": jnp.eye(3), "y": jnp.zeros(3)}, quadratic(3)
    for name in ("noisy_gradients", "normalized_gradients"):
        task = TASKS[name](base=base)
        grads = fast_jit(jax.grad(lambda p, t=task: t.loss(cfg, p, {}, KEY)[0]))({"x": jnp.zeros(3)})
        assert np.abs(grads["x"]).max() < 1e-15


@pytest.mark.parametrize(
    ("wrap", "message"),
    [
        (lambda: augment.reparametrized(quadratic(), "layer"), "unknown 'layer', expected one of global"),
        (lambda: augment.reparametrized(quadratic(), low=2.0, high=1.0), "expected 0 < low <= high"),
        (lambda: augment.small_batches(quadratic(), 0), "batch_size: 0"),
        (lambda: augment.few_batches(quadratic(), 3, 2), "low, high: 3, 2, expected 1 <= low <= high"),
        (lambda: augment.normalized_gradients(quadratic(), "layer"), "unknown 'layer'"),
        (lambda: augment.low_rank_gradients(quadratic(), 0), "rank: 0"),
        (lambda: augment.delayed_gradients(quadratic(), 0), "delay: 0, expected at least 1"),
    ],
)
def test_wrong_arguments_are_errors_at_once(wrap, message):
    with pytest.raises(ValueError, match=message):
        wrap()


def test_batches_that_are_too_small_are_an_error():
    base = image_mlp(**NET)
    task = augment.small_batches(base, 17)
    with pytest.raises(ValueError, match=r"batch_size: 17 of minibatches with \[16\] rows"):
        jax.eval_shape(lambda key: task.batch({}, base.data(), key, "train"), KEY)
