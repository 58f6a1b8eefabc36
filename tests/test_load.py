"""metaopt.load: an ordinary optax transformation."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding, PartitionSpec
from safetensors.numpy import save_file

import metaopt
from metaopt import sharding, weights
from metaopt.checkpoint import CheckpointError, save_weights
from metaopt.optimizers import OPTIMIZERS
from metaopt.types import LearnedOptimizer

PARAMS = {"w": jnp.linspace(-1.0, 1.0, 24).reshape(4, 6), "b": jnp.full((6,), 0.3)}


def loss_fn(params):
    return 0.5 * sum(jnp.sum(jnp.square(x.astype(jnp.float32))) for x in jax.tree.leaves(params))


def write(path: Path, entry: dict) -> Path:
    arguments = {key: tuple(x) if isinstance(x, list) else x for key, x in entry.items() if key != "name"}
    theta = OPTIMIZERS[entry["name"]](**arguments).init(jax.random.key(0))
    save_weights(path, theta, {"optimizer": entry, "config": {}, "outer_step": 0})
    return path


# One that needs nothing, one with loss and horizon, one of optax's, a wrapper; the contract of optimizers has them all.
@pytest.fixture(scope="module", params=["adafac_mlp", "velo", "hyper", "mup"])
def path(request, tmp_path_factory) -> Path:
    return write(tmp_path_factory.mktemp("weights") / f"{request.param}.safetensors", {"name": request.param})


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_architecture_has_a_file(name, tmp_path):
    """Its default arguments, and theta with every leaf in its place."""
    shapes = jax.eval_shape(OPTIMIZERS[name]().init, jax.random.key(0))
    theta = jax.tree.unflatten(
        jax.tree.structure(shapes), [jnp.full(x.shape, i, x.dtype) for i, x in enumerate(jax.tree.leaves(shapes))]
    )
    save_weights(tmp_path / "theta.safetensors", theta, {"optimizer": {"name": name}})
    jax.tree.map(np.testing.assert_array_equal, weights.read(tmp_path).theta, theta)


def run(opt, params, steps=3):
    """Steps in one jitted scan; returns the parameters."""

    def step(carry, _):
        params, state = carry
        loss, grads = jax.value_and_grad(loss_fn)(params)
        updates, state = opt.update(grads, state, params, value=loss)
        return (optax.apply_updates(params, updates), state), loss

    return jax.jit(lambda p: jax.lax.scan(step, (p, opt.init(p)), None, steps)[0][0])(params)


def test_load_equals_build(path):
    """Under jit and scan, the loaded transformation is the architecture's own at the same theta."""
    learned = weights.read(path)
    own = run(learned.optimizer.build(learned.theta, 10), PARAMS)
    jax.tree.map(np.testing.assert_array_equal, run(metaopt.load(path, num_steps=10), PARAMS), own)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(learned.theta))


def test_parameters_keep_their_dtype(path):
    opt = metaopt.load(path, num_steps=10)
    params = jax.tree.map(lambda x: x.astype(jnp.bfloat16), PARAMS)
    loss, grads = jax.value_and_grad(loss_fn)(params)
    updates, state = jax.jit(opt.update)(grads, opt.init(params), params, value=loss)
    assert all(u.dtype == jnp.bfloat16 for u in jax.tree.leaves(updates))
    assert jax.tree.structure(state) == jax.tree.structure(opt.init(params))


def test_vmap(path):
    opt = metaopt.load(path, num_steps=10)
    many = jax.tree.map(lambda x: jnp.stack([x, 2 * x]), PARAMS)
    together = jax.vmap(lambda p: run(opt, p))(many)
    alone = run(opt, jax.tree.map(lambda x: 2 * x, PARAMS))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a[1], b, rtol=1e-5, atol=1e-6), together, alone)


def test_sharded_parameters(path):
    """Rows over two devices: the same parameters, still sharded after the update."""
    opt = metaopt.load(path, num_steps=10)
    rows = NamedSharding(sharding.mesh(), PartitionSpec(sharding.AXIS))
    params = jax.device_put(PARAMS, {"w": rows, "b": NamedSharding(sharding.mesh(), PartitionSpec())})
    result = run(opt, params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), result, run(opt, PARAMS))


def test_chain_and_unknown_arguments(path):
    opt = optax.chain(optax.clip_by_global_norm(1e-3), metaopt.load(path, num_steps=10), optax.scale(0.0))
    loss, grads = jax.value_and_grad(loss_fn)(PARAMS)
    updates, _ = opt.update(grads, opt.init(PARAMS), PARAMS, value=loss, something_else=1)
    jax.tree.map(lambda u: np.testing.assert_array_equal(u, 0.0), updates)


def test_params_are_required(path):
    opt = metaopt.load(path, num_steps=10)
    with pytest.raises(ValueError, match=r"uses the parameters: call opt.update\(grads, state, params\)"):
        opt.update(PARAMS, opt.init(PARAMS))


def test_the_loss_is_required_where_it_is_used(tmp_path, monkeypatch):
    def update(grads, state, params=None, *, value, **extra):
        return jax.tree.map(lambda g: -value * g, grads), state

    def build(theta, num_steps):
        return optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)

    monkeypatch.setitem(OPTIMIZERS, "lossy", lambda: LearnedOptimizer(lambda key: {"x": jnp.zeros(2)}, build))
    opt = metaopt.load(write(tmp_path / "a.safetensors", {"name": "lossy"}), num_steps=10)
    for missing in ({}, {"value": None}):
        with pytest.raises(ValueError, match=r"lossy uses the loss: call opt.update\(.*, value=loss\)"):
            opt.update(PARAMS, opt.init(PARAMS), PARAMS, **missing)
    updates, _ = opt.update(PARAMS, opt.init(PARAMS), PARAMS, value=2.0)
    np.testing.assert_allclose(updates["b"], -0.6, rtol=1e-6)


def test_arguments_of_the_architecture_come_from_the_file(tmp_path):
    entry = {"name": "adafac_mlp", "hidden": 3, "momentum_decays": [0.5, 0.9]}
    learned = weights.read(write(tmp_path / "a.safetensors", entry))
    assert learned.meta["optimizer"] == entry
    assert run(metaopt.load(learned.path, num_steps=10), PARAMS)["w"].shape == (4, 6)


def test_a_run_folder_and_a_name(tmp_path, monkeypatch):
    path = write(tmp_path / "theta.safetensors", {"name": "hyper"})
    assert weights.find(tmp_path) == path
    monkeypatch.setattr(weights, "PRETRAINED", tmp_path)
    assert weights.find("theta") == path
    with pytest.raises(CheckpointError, match=r"no weights 'thet': .*\(theta\); did you mean 'theta'\?"):
        metaopt.load("thet", num_steps=10)
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match="empty holds no theta.safetensors"):
        metaopt.load(tmp_path / "empty", num_steps=10)
    with pytest.raises(CheckpointError, match="none.safetensors: no such file"):
        metaopt.load("none.safetensors", num_steps=10)


def test_weights_of_another_version(tmp_path):
    def file(entry):
        save_file({"x": np.ones(2, np.float32)}, tmp_path / "a.safetensors", {"metaopt": json.dumps(entry)})
        return tmp_path / "a.safetensors"

    with pytest.raises(CheckpointError, match="architecture 'velo2' is not in this version, which has .*mlp"):
        metaopt.load(file({"format": 1, "optimizer": {"name": "velo2"}}), num_steps=10)
    with pytest.raises(CheckpointError, match=r"a.safetensors: optimizer \(mlp\): .*depht"):
        metaopt.load(file({"format": 1, "optimizer": {"name": "mlp", "depht": 2}}), num_steps=10)
    with pytest.raises(CheckpointError, match="optimizer.base: architecture 'velo2' is not in this version, which has"):
        metaopt.load(file({"format": 1, "optimizer": {"name": "mup", "base": {"name": "velo2"}}}), num_steps=10)
    with pytest.raises(CheckpointError, match="the weights do not fit the architecture"):
        metaopt.load(file({"format": 1, "optimizer": {"name": "mlp"}}), num_steps=10)


@pytest.mark.parametrize("num_steps", [0, -5])
def test_num_steps_must_be_positive(num_steps, path):
    with pytest.raises(ValueError, match="num_steps"):
        metaopt.load(path, num_steps=num_steps)
