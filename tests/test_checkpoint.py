"""Weights and run states on disk: exact, reproducible, and honest about damage."""

import json
import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from metaopt import checkpoint
from metaopt.checkpoint import CheckpointError

THETA = {"net": [{"w": jnp.arange(6.0).reshape(2, 3), "b": jnp.zeros((3,))}], "scale": jnp.asarray(2.0)}
META = {"optimizer": {"name": "mlp", "hidden": [32]}, "outer_step": 3}


def test_weights_survive(tmp_path):
    path = tmp_path / "theta.safetensors"
    checkpoint.save_weights(path, THETA, META)
    arrays, meta = checkpoint.read_weights(path)
    assert sorted(arrays) == ["net/0/b", "net/0/w", "scale"]
    assert meta == {"format": 1, **META}
    theta = checkpoint.restore_weights(path, jax.eval_shape(lambda: THETA))
    jax.tree.map(np.testing.assert_array_equal, theta, THETA)
    assert theta["scale"].shape == ()


def test_weights_are_byte_reproducible(tmp_path):
    checkpoint.save_weights(tmp_path / "a", THETA, META)
    checkpoint.save_weights(tmp_path / "b", THETA, dict(reversed(META.items())))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert sorted(os.listdir(tmp_path)) == ["a", "b"]  # no temporary file stays


def test_a_bare_leaf_has_a_name(tmp_path):
    checkpoint.save_weights(tmp_path / "a", jnp.ones((2,)), META)
    np.testing.assert_array_equal(checkpoint.restore_weights(tmp_path / "a", jnp.zeros((2,))), 1.0)


def test_every_misfit_is_named(tmp_path):
    path = tmp_path / "theta.safetensors"
    checkpoint.save_weights(path, THETA, META)
    template = {"net": [{"w": jnp.zeros((3, 2)), "bias": jnp.zeros((3,))}], "scale": jnp.zeros((), jnp.int32)}
    with pytest.raises(CheckpointError) as caught:
        checkpoint.restore_weights(path, template)
    assert str(caught.value).splitlines() == [
        f"{path}: the weights do not fit the architecture",
        "  leaf 'net/0/bias': expected float32[3], found none; nearest: 'net/0/b'",
        "  leaf 'net/0/w': expected float32[3, 2], found float32[2, 3]",
        "  leaf 'scale': expected int32[], found float32[]",
        "  leaf 'net/0/b': not a part of this architecture",
    ]


def test_unusable_weights_files(tmp_path):
    path = tmp_path / "theta.safetensors"
    with pytest.raises(CheckpointError, match="theta.safetensors: no such file"):
        checkpoint.read_weights(path)
    checkpoint.save_weights(path, THETA, META)
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(CheckpointError, match="theta.safetensors: not a readable safetensors file"):
        checkpoint.read_weights(path)
    from safetensors.numpy import save_file

    save_file({"w": np.ones(2)}, path)
    with pytest.raises(CheckpointError, match="theta.safetensors: no metaopt metadata"):
        checkpoint.read_weights(path)
    save_file({"w": np.ones(2)}, path, metadata={"metaopt": json.dumps({"format": 2})})
    with pytest.raises(CheckpointError, match="format 2, this version of metaopt reads format 1"):
        checkpoint.read_weights(path)


def state_like(value: float):
    """What run states hold: named tuples, typed keys alone and in arrays, empty and low-precision leaves, nothing; and
    the trained part of a theta, by path."""
    return {
        "theta": THETA,
        "part": {"net/0/w": jnp.full((2,), value), "net/0/b": jnp.full((3,), -value)},
        "outer": optax.adam(1e-3).init({"a": jnp.full((3,), value)}),
        "key": jax.random.key(int(value)),
        "keys": jax.random.split(jax.random.key(1, impl="rbg"), 4),
        "empty": jnp.zeros((2, 0)),
        "none": None,
        "tuple": (),
        "low": jnp.full((2,), value, jnp.bfloat16),
        "count": jnp.asarray(int(value), jnp.int32),
    }


def assert_equal(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert x.dtype == y.dtype
        if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            x, y = jax.random.key_data(x), jax.random.key_data(y)
        np.testing.assert_array_equal(x, y)


def test_state_survives(tmp_path):
    state = state_like(5.0)
    checkpoint.save_state(tmp_path, 5, state, {"best": [1.5, None]})
    step, restored, extra = checkpoint.restore_latest(tmp_path, state_like(0.0))
    assert (step, extra) == (5, {"best": [1.5, None]})
    assert_equal(restored, state)


def test_nothing_saved_is_nothing(tmp_path):
    assert checkpoint.restore_latest(tmp_path / "none", state_like(0.0)) is None
    assert checkpoint.restore_latest(tmp_path, state_like(0.0)) is None


def test_the_last_three_are_kept(tmp_path):
    for step in range(5):
        checkpoint.save_state(tmp_path, step, {"x": jnp.ones(2)}, {})
    assert sorted(os.listdir(tmp_path)) == ["2", "2.json", "3", "3.json", "4", "4.json"]


def test_another_structure_is_an_error(tmp_path):
    checkpoint.save_state(tmp_path, 1, {"x": jnp.ones(2)}, {})
    with pytest.raises(CheckpointError, match="another structure"):
        checkpoint.restore_latest(tmp_path, {"y": jnp.ones(2)})


def largest_file(folder: Path) -> Path:
    return max((p for p in folder.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)


def truncate(tmp_path: Path) -> str:
    path = largest_file(tmp_path / "2")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return rf"{path.name} has \d+ bytes, \d+ were written"


def flip_a_bit(tmp_path: Path) -> str:
    path = largest_file(tmp_path / "2")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    return rf"{path.name} was changed after it was written \(sha256 differs\)"


def remove(tmp_path: Path) -> str:
    path = largest_file(tmp_path / "2")
    path.unlink()
    return rf"{path.name} is missing"


def cut_the_manifest(tmp_path: Path) -> str:
    (tmp_path / "2.json").write_text((tmp_path / "2.json").read_text()[:-20])
    return "2.json is not a readable manifest"


def edit_the_manifest(tmp_path: Path) -> str:
    (tmp_path / "2.json").write_text((tmp_path / "2.json").read_text().replace('"step": 2', '"step": 3'))
    return "2.json was changed after it was written"


@pytest.mark.parametrize("damage", [truncate, flip_a_bit, remove, cut_the_manifest, edit_the_manifest])
def test_damage_is_named_and_the_one_before_is_used(tmp_path, damage):
    for step in (1, 2):
        checkpoint.save_state(tmp_path, step, {"x": jnp.full((64,), float(step))}, {})
    with pytest.warns(RuntimeWarning, match=damage(tmp_path)):
        step, state, _ = checkpoint.restore_latest(tmp_path, {"x": jnp.zeros((64,))})
    assert step == 1
    np.testing.assert_array_equal(state["x"], 1.0)
    checkpoint.save_state(tmp_path, 2, {"x": jnp.full((64,), 7.0)}, {})  # the run comes by again
    assert checkpoint.restore_latest(tmp_path, {"x": jnp.zeros((64,))})[0] == 2


def test_only_damaged_checkpoints_are_an_error(tmp_path):
    checkpoint.save_state(tmp_path, 2, {"x": jnp.ones((64,))}, {})
    truncate(tmp_path)
    with (
        pytest.warns(RuntimeWarning, match="damaged"),
        pytest.raises(CheckpointError, match="every checkpoint is damaged"),
    ):
        checkpoint.restore_latest(tmp_path, {"x": jnp.ones((64,))})


def test_leftovers_of_killed_saves_are_removed(tmp_path):
    checkpoint.save_state(tmp_path, 1, {"x": jnp.ones(2)}, {})
    (tmp_path / "2").mkdir()
    (tmp_path / "2" / "part").write_text("half")
    (tmp_path / "3.orbax-checkpoint-tmp").mkdir()
    (tmp_path / ".2.json.abc.tmp").write_text("half")
    assert checkpoint.restore_latest(tmp_path, {"x": jnp.ones(2)})[0] == 1
    assert sorted(os.listdir(tmp_path)) == ["1", "1.json"]


def test_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    checkpoint.write_atomic(tmp_path / "a", b"old")

    def full(descriptor):
        raise OSError("No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        checkpoint.write_atomic(tmp_path / "a", b"new")
    assert (tmp_path / "a").read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a"]
