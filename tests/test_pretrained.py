"""The weights that ship with the package: described, made by a config that is here, and of use."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import metaopt
from metaopt import config, weights
from metaopt.evaluate import metrics
from metaopt.evaluate.curves import make_runner, prepare
from metaopt.optimizers import make
from metaopt.tasks import make as make_task

ROOT = Path(__file__).parents[1]
CONFIGS = {"anchor-2": "flagship.yaml"}  # what each was meta-trained by


def test_each_has_a_config():
    assert set(CONFIGS) == set(weights.names())
    assert weights.FLAGSHIP in CONFIGS


@pytest.mark.parametrize(("name", "file"), CONFIGS.items())
def test_the_config_is_that_of_the_weights(name, file):
    """But for the seed, of which there were several, and for what is evaluated afterwards."""
    apart = {"seed": None, "valid": None, "heldout": None}
    resolved = config.resolved(config.load(ROOT / "configs" / file))
    assert weights.read(name).meta["config"] | apart == resolved | apart


@pytest.mark.parametrize(("name", "file"), CONFIGS.items())
def test_the_card(name, file):
    card = (weights.PRETRAINED / f"{name}.md").read_text(encoding="utf-8")
    assert card.startswith(f"# {name}\n") and f"metaopt train configs/{file}" in card
    for part in ("Trained on", "Time", "Seeds", "Results", "Where it fails", "Licence"):
        assert f"**{part}" in card, part


def test_load_without_a_name():
    """The flagship, in three lines, on a model of one's own."""
    params = {"w": jnp.linspace(-1.0, 1.0, 24).reshape(4, 6), "b": jnp.zeros(6)}

    def loss_fn(params):
        return jnp.square(jnp.ones(4) @ params["w"] + params["b"] - jnp.arange(6.0)).mean()

    def trained(opt):
        def step(carry, _):
            params, state = carry
            value, grads = jax.value_and_grad(loss_fn)(params)
            updates, state = opt.update(grads, state, params, value=value)
            return (optax.apply_updates(params, updates), state), value

        return np.asarray(jax.lax.scan(step, (params, opt.init(params)), None, 200)[1])

    np.testing.assert_array_equal(
        trained(metaopt.load(num_steps=200)), trained(metaopt.load(weights.FLAGSHIP, num_steps=200))
    )
    assert (
        trained(metaopt.load(num_steps=200))[-1] < 1e-3 * trained(optax.with_extra_args_support(optax.adam(1e-3)))[-1]
    )
    with pytest.raises(TypeError, match="num_steps"):
        metaopt.load()


TASKS = [
    {"name": "image_mlp", "dataset": "wine", "hidden": (32,), "activation": "tanh"},
    {"name": "image_autoencoder", "dataset": "breast_cancer", "hidden": (16, 4, 16), "activation": "tanh"},
    {"name": "quadratic", "dim": 10},
]


@pytest.mark.parametrize("entry", TASKS, ids=lambda entry: entry["name"])
def test_better_than_adam_and_stable(entry):
    """Without tuning: below Adam at 1e-3 after 500 steps, and no rise when it goes on for ten times the horizon."""
    task, learned = make_task(entry), weights.read(weights.FLAGSHIP)
    adam = make({"name": "hyper", "base": "adam", "learnable": {"learning_rate": 1e-3}})
    problems = prepare(task, task.data(), steps=500, seeds=2)

    def finals(optimizer, theta, problems, told=None):
        thetas = jax.tree.map(lambda x: np.asarray(x)[None], theta)
        return metrics.final_loss(make_runner(problems, optimizer, told=told).run(thetas)[0])

    own = finals(learned.optimizer, learned.theta, problems)
    assert (own < finals(adam, adam.init(jax.random.key(0)), problems)).all()
    longer = finals(learned.optimizer, learned.theta, problems._replace(steps=5000), told=500)
    assert (longer < 1.1 * own + 1e-6).all()
