"""muP: the base's steps, in hidden matrices over fan_in."""

import importlib
import inspect
import json
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding, PartitionSpec

import metaopt
from metaopt import build, config, sharding, weights
from metaopt.checkpoint import CheckpointError, save_weights
from metaopt.optimizers import OPTIMIZERS, make
from metaopt.optimizers.adafac_mlp import adafac_mlp
from metaopt.optimizers.hyper import hyper
from metaopt.optimizers.mup import mup
from metaopt.tasks import _nets
from metaopt.tasks.image_mlp import image_mlp
from metaopt.types import LearnedOptimizer

EXPERIMENT = Path(__file__).parents[2] / "experiments" / "mup_width_transfer"
CHAIN = {  # two convolutions and three dense layers, in the order of their names
    "b": {"a": (5,), "scale": ()},
    "conv0": (3, 3, 2, 8),
    "conv1": {"bias": (6,), "kernel": (3, 1, 8, 6)},
    "dense2": (6, 40),
    "dense10": (40, 30),
    "empty": (0, 3),
    "out": (30, 4),
}
FAN_IN = {"conv1/kernel": 24, "dense2": 6, "dense10": 40}  # of the hidden ones


def arrays(shapes, dtype=jnp.float32, seed=0):
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda shape: jnp.asarray(rng.standard_normal(shape), dtype), shapes, is_leaf=lambda x: isinstance(x, tuple)
    )


def paths(tree):
    flat, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in flat}


def plain(required=False):
    """An optimizer whose step is -theta g; the loss is required of `update` or not."""

    def build(theta, num_steps):
        def update(grads, state, params=None, **extra):
            return jax.tree.map(lambda g: (-theta["rate"] * g).astype(g.dtype), grads), state

        def update_with_loss(grads, state, params=None, *, value, **extra):
            return update(grads, state)

        chosen = update_with_loss if required else update
        return optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), chosen)

    return LearnedOptimizer(lambda key: {"rate": jnp.float32(0.1)}, build)


def factors(shapes, **arguments):
    """{path: step over the base's step} of the leaves that differ from it."""
    tx = mup(plain(), **arguments).build({"rate": -1.0}, 1)
    grads = jax.tree.map(lambda shape: np.ones(shape, np.float32), shapes, is_leaf=lambda x: isinstance(x, tuple))
    updates, _ = jax.jit(tx.update)(grads, (), grads)
    first = {path: float(u.ravel()[0]) for path, u in paths(updates).items() if u.size}
    return {path: factor for path, factor in first.items() if factor != 1}


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_updates_are_the_bases_over_fan_in(dtype):
    """Bit for bit, op by op, with one rounding to the leaf's dtype."""
    base, theta = plain(), {"rate": jnp.float32(0.3)}
    grads = arrays(CHAIN, dtype)
    updates, _ = mup(base).build(theta, 10).update(grads, (), grads)
    wanted, _ = base.build(theta, 10).update(grads, (), grads)
    for path, u in paths(wanted).items():
        if path in FAN_IN:
            u = (np.float32(u) * np.float32(1 / FAN_IN[path])).astype(u.dtype)
        np.testing.assert_array_equal(paths(updates)[path], u)
        assert paths(updates)[path].dtype == dtype


def test_with_an_architecture():
    """Three steps of the same gradients, compiled, so that rounding differs by a few ulp (2^-23)."""
    base, shapes = adafac_mlp(), {"w0": (3, 4), "w1": (4, 5), "w2": (5, 2)}
    theta, params, grads = base.init(jax.random.key(0)), arrays(shapes), arrays(shapes, seed=1)

    @jax.jit
    def steps(params):
        txs = base.build(theta, 10), mup(base).build(theta, 10)
        states, updates = [tx.init(params) for tx in txs], [None, None]
        for _ in range(3):
            for i, tx in enumerate(txs):
                updates[i], states[i] = tx.update(grads, states[i], params, value=1.0, unknown=None)
        return states, updates

    states, (bare, wrapped) = steps(params)
    chex.assert_trees_all_equal(*states)
    chex.assert_trees_all_close(wrapped, bare | {"w1": bare["w1"] / 4}, rtol=4 * 2.0**-23, atol=0)


def test_theta_and_state_are_the_bases():
    base, params = adafac_mlp(hidden=3), {"w": jnp.zeros((4, 3))}
    theta = mup(base).init(jax.random.key(1))
    chex.assert_trees_all_equal(theta, base.init(jax.random.key(1)))
    states = jax.eval_shape(mup(base).build(theta, 9).init, params), jax.eval_shape(base.build(theta, 9).init, params)
    assert jax.tree.structure(states[0]) == jax.tree.structure(states[1])
    assert jax.tree.leaves(states[0]) == jax.tree.leaves(states[1])


def test_hidden_by_default_is_what_lies_between_the_ends_of_a_chain():
    assert factors(CHAIN) == {path: float(np.float32(1 / fan_in)) for path, fan_in in FAN_IN.items()}
    layers = [(7, 4), *[(4, 4)] * 11, (4, 3)]
    assert factors({f"w{i}": shape for i, shape in enumerate(layers)}) == {f"w{i}": 0.25 for i in range(1, 12)}
    assert factors([{"kernel": shape} for shape in layers]) == {f"{i}/kernel": 0.25 for i in range(1, 12)}
    for shapes in ({"a": (4, 3), "b": (3, 4)}, {"a": (9, 3)}, {"a": (4,), "b": ()}, {}):
        assert factors(shapes) == {}


def test_a_pattern_wins():
    transformer = {
        "blocks": [{"up": (8, 16), "up_bias": (16,), "down": (16, 8)}] * 2,
        "embed": (20, 8),
        "head": (8, 20),
    }
    assert factors(transformer, hidden="^blocks/.*/(up|down)") == {
        f"blocks/{i}/{name}": 1 / fan_in for i in range(2) for name, fan_in in (("up", 8), ("down", 16))
    }
    assert factors(CHAIN, hidden="out$") == {"out": float(np.float32(1 / 30))}
    assert factors({"a": (4, 3), "b": (3, 4)}, hidden="c") == {}  # too small a model to have hidden matrices


def test_width_is_the_fan_in_at_which_nothing_changes():
    layers = {"w0": (4, 8), "w1": (8, 16), "w2": (16, 2), "w3": (2, 2)}
    assert factors(layers, width=8) == {"w2": 0.5}
    assert factors(layers, width=4) == {"w1": 0.5, "w2": 0.25}


def test_errors():
    with pytest.raises(ValueError, match="hidden: embed takes 20 inputs and dense, in front of it by name, gives 8"):
        factors({"dense": (8, 8), "embed": (20, 8), "head": (8, 20)})
    with pytest.raises(ValueError, match=r"hidden: 'dens\$' is in no path of the model's matrices: dense, embed, head"):
        factors({"dense": (8, 8), "embed": (20, 8), "head": (8, 20), "dens": (3,)}, hidden="dens$")
    with pytest.raises(ValueError, match=r"hidden: '\(w' is no regular expression: missing \)"):
        mup(plain(), hidden="(w")
    with pytest.raises(ValueError, match="width: must be positive, got 0"):
        mup(plain(), width=0)


@pytest.mark.parametrize("required", [False, True])
def test_the_loss_is_required_as_by_the_base(required, monkeypatch, tmp_path):
    monkeypatch.setitem(OPTIMIZERS, "plain", lambda: plain(required))
    tx = make({"name": "mup", "base": {"name": "plain"}}).build({"rate": 1.0}, 1)
    assert ("value" in inspect.signature(tx.update).parameters) == required
    entry = {"name": "mup", "base": {"name": "plain"}}
    save_weights(tmp_path / "a.safetensors", {"rate": jnp.float32(0.1)}, {"optimizer": entry})
    opt = metaopt.load(tmp_path / "a.safetensors", num_steps=3)
    params = {f"w{i}": np.ones((2, 2), np.float32) for i in range(3)}
    updates, state = opt.update(params, opt.init(params), params, value=1.0, unknown=2)
    np.testing.assert_allclose(updates["w1"], -0.05, rtol=1e-6)
    if required:
        with pytest.raises(ValueError, match="mup uses the loss"):
            opt.update(params, state, params)


def test_from_a_config_to_loaded_weights(tmp_path):
    raw = {"optimizer": {"name": "mup", "base": "hyper", "width": 2}, "estimator": "pes", "tasks": ["image_mlp"]}
    settings = config.parse(raw, "test", ["optimizer.base.learnable={learning_rate: 0.5}", "optimizer.base.base=sgd"])
    entry = config.resolved(settings)["optimizer"]
    rest = {"fixed": None, "schedule": {"name": "constant"}, "warmup": 0.0}
    assert entry["base"] == {"name": "hyper", "base": "sgd", "learnable": {"learning_rate": 0.5}, **rest}
    theta = build.optimizer(settings.optimizer).init(jax.random.key(0))
    save_weights(tmp_path / "a.safetensors", theta, {"optimizer": entry})
    opt = metaopt.load(tmp_path / "a.safetensors", num_steps=3)
    grads = {"w0": np.ones((3, 8), np.float32), "w1": np.ones((8, 8), np.float32), "w2": np.ones((8, 5), np.float32)}
    updates, _ = opt.update(grads, opt.init(grads), grads)
    for name, step in (("w0", -0.5), ("w1", -0.5 * 2 / 8), ("w2", -0.5)):
        np.testing.assert_allclose(updates[name], step, rtol=1e-6)
    assert weights.read(tmp_path / "a.safetensors").meta["optimizer"] == entry


def test_the_default_base_is_an_entry():
    raw = {"optimizer": "mup", "estimator": "pes", "tasks": ["image_mlp"]}
    entry = config.resolved(config.parse(raw, "test"))["optimizer"]
    ours, default = make(entry), OPTIMIZERS["mup"]()
    chex.assert_trees_all_equal(ours.init(jax.random.key(0)), default.init(jax.random.key(0)))


def test_weights_of_the_base_serve_the_wrapper(tmp_path):
    base = adafac_mlp(hidden=3)
    entry = {"name": "adafac_mlp", "hidden": 3}
    theta = base.init(jax.random.key(0))
    for name, optimizer in (("bare", entry), ("wrapped", {"name": "mup", "base": entry}), ("wrong", {"name": "mup"})):
        save_weights(tmp_path / f"{name}.safetensors", theta, {"optimizer": optimizer})
    bare, wrapped = (weights.read(tmp_path / f"{name}.safetensors").theta for name in ("bare", "wrapped"))
    chex.assert_trees_all_equal(bare, wrapped)
    with pytest.raises(CheckpointError, match="the weights do not fit the architecture"):
        weights.read(tmp_path / "wrong.safetensors")


def test_the_experiments_configs():
    """Equal but for muP."""
    standard, wrapped = (config.resolved(config.load(EXPERIMENT / f"{name}.yaml")) for name in ("standard", "mup"))
    standard["optimizer"] = {"name": "mup", "base": standard["optimizer"] | {"step_mult": 0.003}}
    standard["optimizer"] |= {"hidden": None, "width": 32}
    standard["tasks"][0]["parametrization"] = "mup"
    assert standard == wrapped


def test_the_experiments_tables_are_those_of_its_results(monkeypatch):
    monkeypatch.syspath_prepend(EXPERIMENT)
    module = importlib.import_module("width_transfer")
    readme = (EXPERIMENT / "README.md").read_text(encoding="utf-8")
    results = json.loads((EXPERIMENT / "results.json").read_text(encoding="utf-8"))
    assert set(results) == set(module.MEASURES)
    assert all(module.table(losses) in readme for losses in results.values())


def test_errors_of_the_base_have_its_key():
    with pytest.raises(build.RunError, match=r"optimizer.base \(hyper\): base: optax has no optimizer 'adm'"):
        build.optimizer(config.Entry(name="mup", base={"name": "hyper", "base": "adm"}))
    with pytest.raises(build.RunError, match=r"optimizer \(mup\): hidden: '\(' is no regular expression"):
        build.optimizer(config.Entry(name="mup", base={"name": "hyper"}, hidden="("))


def test_shards_stay_where_they_are():
    rows = NamedSharding(sharding.mesh(), PartitionSpec(sharding.AXIS))
    params = jax.device_put(arrays({"w0": (4, 8), "w1": (8, 8), "w2": (8, 2)}), rows)
    tx = mup(hyper("sgd")).build({"learning_rate": jnp.float32(0.0)}, 1)
    updates, _ = jax.jit(tx.update)(params, tx.init(params), params)
    assert all(u.sharding.is_equivalent_to(rows, 2) for u in updates.values())


def moved(parametrization, optimizer, width):
    """How far a step of Adam moves the second hidden layer and the output of a classifier, root mean squares."""
    task = image_mlp("digits", hidden=(width, width), parametrization=parametrization)
    batch = jax.tree.map(lambda a: a[:64], task.data()["train"])
    tx = optimizer.build({"learning_rate": jnp.log(1e-2)}, 1)

    def layers(params):
        below = {name: params[name] for name in ("w0", "b0", "w1", "b1")}
        return [_nets.mlp(below, batch["x"], jax.nn.relu), _nets.mlp(params, batch["x"], jax.nn.relu, parametrization)]

    @jax.jit
    def run(key):
        cfg = task.sample(key)
        params = task.init(cfg, key)
        grads = jax.grad(lambda p: task.loss(cfg, p, batch, key)[0])(params)
        updates, _ = tx.update(grads, tx.init(params), params)
        after = layers(optax.apply_updates(params, updates))
        return [jnp.sqrt(jnp.mean((a - b) ** 2)) for a, b in zip(after, layers(params), strict=True)]

    return np.array(run(jax.random.key(1)))


def test_with_the_models_half_steps_act_alike_at_all_widths():
    """16 times as wide, a step of Adam acts 4 to 16 times as strongly (what adds up is random, or of one sign); in muP
    it acts alike. Random parts, which fall as 1/sqrt(width), leave less than a factor of two."""
    bare = moved("standard", hyper("adam"), 512) / moved("standard", hyper("adam"), 32)
    assert (bare > 3).all()
    wrapped = moved("mup", mup(hyper("adam")), 512) / moved("mup", mup(hyper("adam")), 32)
    assert (wrapped > 0.5).all() and (wrapped < 2).all()
