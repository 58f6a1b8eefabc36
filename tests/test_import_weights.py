"""Weights of other implementations: read without running anything, checked leaf by leaf, or refused in one sentence."""

import io
import os
import pickle
import re
import zipfile
from pathlib import Path

import jax
import jax.numpy as jnp
import msgpack
import numpy as np
import optax
import pytest
from flax import serialization

import metaopt
from metaopt import commands, config, weights
from metaopt.checkpoint import CheckpointError, foreign, read_weights
from metaopt.checkpoint.foreign import read_arrays

HERE = Path(__file__).parent / "reference"
PUBLISHED = Path(__file__).parents[1].parent / "shared/reference/golden"
ARRAYS = {  # of the smallest architecture, by the other implementation's names
    name.removeprefix("theta/"): x
    for name, x in np.load(HERE / "adafac_mlp_lopt__mlp.npz").items()
    if name.startswith("theta/")
}


def nested(arrays: dict[str, np.ndarray]) -> dict:
    tree: dict = {}
    for name, x in arrays.items():
        *folders, leaf = name.split("/")
        node = tree
        for folder in folders:
            node = node.setdefault(folder, {})
        node[leaf] = x
    return tree


def npz(arrays: dict[str, np.ndarray]) -> bytes:
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


THETA = nested(ARRAYS)
STATE = serialization.msgpack_serialize(THETA)
FORMS = {
    "bare": STATE,
    "with a counter": serialization.to_bytes({"params": THETA, "gen_id": "a1", "step": 7}),
    "a tuple": serialization.to_bytes((THETA, "", np.int64(7))),
    "a list": serialization.msgpack_serialize([THETA, {"step": np.float32(7)}]),
    "npz": npz(ARRAYS),
    "npz of more": npz(
        {f"theta/{name}": x for name, x in ARRAYS.items()} | {"losses": np.ones(3), "who": np.array("x")}
    ),
}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A file that imports well."""
    (tmp_path / "theta.state").write_bytes(STATE)
    return tmp_path / "theta.state"


def run(file: Path, *overrides: str, name: str = "adafac_mlp", force: bool = False) -> Path:
    """The import of a file; the file written."""
    out = file.with_suffix(".safetensors")
    commands.import_weights(file, config.entry("optimizers", {"name": name}, "test", overrides), out, force)
    return out


def refused(file: Path, *overrides: str, **arguments) -> str:
    """The message of an import that fails, which leaves nothing behind."""
    before = sorted(os.listdir(file.parent))
    with pytest.raises(CheckpointError) as caught:
        run(file, *overrides, **arguments)
    assert sorted(os.listdir(file.parent)) == before
    assert str(caught.value).startswith(f"{file}: ")
    return str(caught.value).removeprefix(f"{file}: ")


@pytest.mark.parametrize("form", FORMS)
def test_every_form(form, tmp_path):
    (tmp_path / "file").write_bytes(FORMS[form])
    arrays, digest = read_arrays(tmp_path / "file")
    assert len(digest) == 64
    assert sorted(arrays) == sorted(ARRAYS)
    for name, x in ARRAYS.items():
        np.testing.assert_array_equal(arrays[name], x, strict=True)


def test_import_then_load(file, capsys):
    out = run(file)
    assert re.search(r"safetensors: adafac_mlp\(hidden=4, .*\), 197 learned numbers", capsys.readouterr().out)
    arrays, meta = read_weights(out)
    np.testing.assert_array_equal(arrays["mlp/w1"], ARRAYS["nn/~/w1"])
    assert meta["optimizer"]["name"] == "adafac_mlp" and meta["optimizer"]["hidden"] == 4
    assert meta["imported_from"] == {"file": "theta.state", "sha256": read_arrays(file)[1]}

    theta = metaopt.checkpoint.from_reference("adafac_mlp", ARRAYS)
    jax.tree.map(np.testing.assert_array_equal, weights.read(out).theta, theta)


@pytest.mark.skipif(not (PUBLISHED / "celo.theta.state").exists(), reason="published weights are not here")
def test_published_weights_train(tmp_path, capsys):
    """From the file to a training: every loss is the other implementation's."""
    file = tmp_path / "celo.theta.state"
    file.write_bytes((PUBLISHED / file.name).read_bytes())
    opt = metaopt.load(run(file, name="celo"), num_steps=50)
    assert "celo has no use for rnn_params/linear, rnn_params/rnn_to_controls in" in capsys.readouterr().out

    golden = np.load(PUBLISHED / "celo__mlp.npz")
    x, y = golden["x"], golden["y"]
    params = {name.removeprefix("params0/"): golden[name] for name in golden.files if name.startswith("params0/")}

    def loss_fn(p):
        return jnp.mean((jnp.tanh(x @ p["w0"] + p["b0"][None]) @ p["w1"] + p["b1"][None] - y) ** 2)

    def step(carry, _):
        params, state = carry
        loss, grads = jax.value_and_grad(loss_fn)(params)
        updates, state = opt.update(grads, state, params, value=loss)
        return (optax.apply_updates(params, updates), state), loss

    losses = jax.jit(lambda p: jax.lax.scan(step, (p, opt.init(p)), None, 50)[1])(params)
    # ten times the change that 1e-6 in the start makes
    np.testing.assert_allclose(losses, golden["losses"], rtol=10 * float(golden["sens_losses"]))
    assert "expected float32[18, 32], found float32[18, 64]" in refused(file, "lstm_hidden=32", name="celo", force=True)


def test_a_misfit_names_leaf_and_shapes(file):
    lines = refused(file, "hidden=3").splitlines()
    assert re.fullmatch(r"the weights do not fit adafac_mlp\(hidden=3, .*\)", lines[0])
    assert "  leaf 'mlp/w0': expected float32[39, 3], found float32[39, 4]" in lines
    file.write_bytes(serialization.msgpack_serialize(nested({**ARRAYS, "rms_decays": np.zeros(1, np.float64)})))
    assert "  leaf 'decays/v': expected float32[1], found float64[1]" in refused(file)


def test_a_missing_leaf_is_named_with_the_nearest(file):
    arrays = {name.replace("rms_decays", "rms_decay"): x for name, x in ARRAYS.items()}
    file.write_bytes(serialization.msgpack_serialize(nested(arrays)))
    expected = "no leaf 'rms_decays', which weights of adafac_mlp have; nearest: 'rms_decay'"
    assert refused(file) == expected


def test_pieces_of_one_leaf_must_go_together(file):
    arrays = {f"ff_mod_stack/~/w0__{i}": np.ones((1, 2, 4), np.float32) for i in range(14)}
    arrays |= {"ff_mod_stack/~/b0": np.ones((1, 4), np.float32), "ff_mod_stack/~/w0__9": np.ones((1, 2, 5), np.float32)}
    file.write_bytes(serialization.msgpack_serialize(nested(arrays)))
    assert "(leaf 'ff_mod_stack/~/w0__9': expected [1, inputs, 4], found [1, 2, 5])" in refused(file, name="celo")


def test_another_architecture_is_told(file):
    assert refused(file, name="mlp").endswith("; the file reads as weights of adafac_mlp")


def test_nothing_is_lost(file):
    out = run(file)
    old = out.read_bytes()
    with pytest.raises(CheckpointError, match="theta.safetensors: exists already; --force replaces it"):
        run(file)
    with pytest.raises(CheckpointError, match="the weights do not fit"):
        run(file, "hidden=3", force=True)
    assert out.read_bytes() == old
    out.write_bytes(b"other")
    assert run(file, force=True).read_bytes() == old  # reproducible

    (file.parent / "a.safetensors").write_bytes(STATE)
    with pytest.raises(CheckpointError, match="a.safetensors: is the file to import, which stays as it is"):
        run(file.parent / "a.safetensors", force=True)
    with pytest.raises(CheckpointError, match=r"none/a.safetensors: cannot be written \(No such file or directory\)"):
        entry = config.entry("optimizers", {"name": "adafac_mlp"}, "test")
        commands.import_weights(file, entry, file.parent / "none" / "a.safetensors")


def test_damaged_files_are_refused(file):
    """Cut anywhere, a file is refused. A flipped bit is too, unless it left a well-formed file with another number."""
    for length in range(0, len(STATE), 7):
        file.write_bytes(STATE[:length])
        refused(file)
    rng = np.random.default_rng(0)
    survived = 0
    for position, bit in zip(rng.integers(len(STATE), size=150), rng.integers(8, size=150), strict=True):
        damaged = bytearray(STATE)
        damaged[position] ^= 1 << bit
        file.write_bytes(damaged)
        try:
            out = run(file)
        except CheckpointError as error:
            assert str(error).startswith(str(file)) and os.listdir(file.parent) == [file.name]
        else:
            assert weights.read(out)
            survived += 1
            out.unlink()
    assert 0 < survived <= 150 * 4 * 197 / len(STATE) * 1.2  # only among the bytes of the numbers


class Bomb:
    """Unpickled, it writes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_no_file_is_run(file):
    """Pickles, alone, in an npz, in a msgpack extension; arrays of objects."""
    touched = file.parent / "touched"
    bomb = pickle.dumps(Bomb(touched))
    objects = np.array([Bomb(touched)], dtype=object)
    array = io.BytesIO()
    np.save(array, objects, allow_pickle=True)
    member = io.BytesIO()
    with zipfile.ZipFile(member, "w") as archive:
        archive.writestr("mlp.npy", bomb)
    fake = msgpack.packb(([1], "object", bomb))
    for content in (
        bomb,
        array.getvalue(),
        npz({"nn": objects}),
        member.getvalue(),
        msgpack.packb({"nn": msgpack.ExtType(1, fake)}),
        msgpack.packb({"nn": msgpack.ExtType(7, bomb)}),
        msgpack.packb({"nn": bomb}),
    ):
        file.write_bytes(content)
        refused(file)
    assert not touched.exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a readable msgpack file of arrays"),
        (b"hello", "not a readable msgpack file of arrays"),
        (b"PK\x03\x04 and no more", "not a readable npz file of arrays"),
        (msgpack.packb({"step": 3}), "no arrays in it"),
        (msgpack.packb(3), "no arrays in it"),
        (b"\xdd\xff\xff\xff\xff", "exceeds max_array_len"),
        (b"\x91" * 5000, "not a readable msgpack file of arrays"),
        (serialization.msgpack_serialize({"a/b": np.ones(1), "a": {"b": np.ones(1)}}), "two leaves have one name"),
        (
            serialization.msgpack_serialize({"a": {"b": np.array([1, np.nan])}}),
            "leaf 'a/b' has numbers that are not fin",
        ),
    ],
)
def test_foreign_content(file, content, message):
    file.write_bytes(content)
    assert message in refused(file)


def test_huge_and_special_files(file, monkeypatch):
    os.truncate(file, 2**30 + 1)
    assert refused(file) == "has 1,073,741,825 bytes; weights have at most 1,073,741,824"
    monkeypatch.setattr(foreign, "LIMIT", 10_000)
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("nn.npy", bytes(100_000))
    assert "more than 10,000 bytes unpacked" in refused(file)
    file.unlink()
    assert refused(file) == "no such file"
    os.mkfifo(file)
    assert refused(file) == "not a file"
