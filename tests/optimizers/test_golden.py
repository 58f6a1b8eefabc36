"""Trajectories of another implementation: the same weights must take the same steps."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from metaopt.checkpoint import from_reference
from metaopt.optimizers import OPTIMIZERS

HERE = Path(__file__).parents[1] / "reference"
OTHER = (
    Path(__file__).parents[2].parent / "shared/reference/golden"
)  # files made from published weights, not ours to ship
CASES = {  # our architecture -> (the other implementation's file, our arguments)
    "mlp": ("mlp_lopt__mlp", {}),
    "rnn_mlp": ("rnn_mlp_lopt__mlp", {}),
    "adafac_mlp": ("adafac_mlp_lopt__mlp", {}),
    "velo": ("hyper_v2__mlp", {"lstm_hidden": 64, "bank": 32, "bank_mult": 100.0}),
    "celo": ("celo__mlp", {}),
    "celo_adam": ("celo_adam__mlp", {}),
    "celo2": ("celo2__mlp", {}),
}


def group(file, prefix):
    return {name.removeprefix(prefix): jnp.asarray(file[name]) for name in file.files if name.startswith(prefix)}


@pytest.mark.parametrize("name", CASES)
def test_trajectory(name):
    stem, arguments = CASES[name]
    path = next((path for folder in (HERE, OTHER) if (path := folder / f"{stem}.npz").exists()), None)
    if path is None:
        pytest.skip(f"{stem}.npz is not here")
    file = np.load(path)
    x, y, params = jnp.asarray(file["x"]), jnp.asarray(file["y"]), group(file, "params0/")
    tx = OPTIMIZERS[name](**arguments).build(from_reference(name, group(file, "theta/")), int(file["num_steps"]))

    def loss(p):
        return jnp.mean((jnp.tanh(x @ p["w0"] + p["b0"][None]) @ p["w1"] + p["b1"][None] - y) ** 2)

    @jax.jit
    def step(params, state):
        value, grads = jax.value_and_grad(loss)(params)
        updates, state = tx.update(grads, state, params, value=value)
        return optax.apply_updates(params, updates), state, value

    state = tx.init(params)
    # 1e-5 relative to the size of a leaf; after 50 steps ten times the change that 1e-6 in the start makes
    tolerance = {1: 1e-5, 2: 1e-5, 10: 1e-5, 50: 10 * float(file["sens_params50"])}
    for t in range(50):
        params, state, value = step(params, state)
        np.testing.assert_allclose(value, file["losses"][t], rtol=10 * float(file["sens_losses"]))
        if t + 1 in tolerance:
            for leaf, expected in group(file, f"params{t + 1}/").items():
                scale = 1.0 if t + 1 == 50 else float(jnp.abs(expected).max())
                np.testing.assert_allclose(params[leaf], expected, rtol=0, atol=tolerance[t + 1] * scale)
