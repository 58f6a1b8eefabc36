"""Families with a network and real data: their layers, their minibatches, and what counts as one."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from metaopt.data import load
from metaopt.tasks import TASKS, _modules, _nets
from metaopt.tasks.image_mlp import image_mlp
from metaopt.tasks.image_vae import image_vae
from metaopt.tasks.logistic_regression import logistic_regression
from metaopt.tasks.softmax_regression import softmax_regression
from metaopt.tasks.tabular_regression import tabular_regression
from metaopt.tasks.transformer_lm import transformer_lm
from tests.tasks.cases import draw, evaluate, fast_jit

KEY = jax.random.key(3)
ULP = 2.0**-23  # float32


@pytest.mark.parametrize(
    ("size", "strides", "padding"),
    [((3, 3), 1, "SAME"), ((3, 3), 2, "SAME"), ((1, 1), 2, "SAME"), ((2, 2), 2, "VALID")],
)
def test_convolutions_are_convolutions(size, strides, padding):
    """Also with sides that the strides do not divide. Sums of 27 terms or fewer."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, 7, 8, 3)).astype(np.float32)
    kernel = rng.standard_normal((*size, 3, 4)).astype(np.float32)
    module = _modules.Conv(4, size, strides, padding=padding, use_bias=False)
    got = fast_jit(lambda x, k: module.apply({"params": {"kernel": k}}, x))(x, kernel)
    want = jax.lax.conv_general_dilated(
        x, kernel, (strides, strides), padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


def test_fresh_weights_of_modules_have_the_documented_scale():
    """A sample deviation of n draws is within 5 of its own deviations, 1 / sqrt(2 n), of the true one."""
    module = _modules.TransformerLm(vocabulary=50, width=24, layers=1, heads=2)
    params = fast_jit(lambda key: _nets.linen_init(module, key, 0.5, jax.ShapeDtypeStruct((1, 7), jnp.int32)))(KEY)
    block = params["Transformer_0"]
    attention = block["MultiHeadDotProductAttention_0"]
    for leaf, fan_in in (
        (params["Embed_0"]["embedding"], 24),
        (params["position_embedding"], 24),
        (params["Dense_0"]["kernel"], 24),
        (attention["query"]["kernel"], 24),
        (attention["out"]["kernel"], 24),
        (block["Mlp_0"]["Dense_1"]["kernel"], 96),
    ):
        np.testing.assert_allclose(leaf.std(), 0.5 / np.sqrt(fan_in), rtol=5 / np.sqrt(2 * leaf.size))
    image = jax.ShapeDtypeStruct((1, 8, 8, 4), jnp.float32)
    conv = fast_jit(lambda key: _nets.linen_init(_modules.Conv(16, (3, 3)), key, 1.0, image))(KEY)
    np.testing.assert_allclose(conv["kernel"].std(), 1 / np.sqrt(36), rtol=5 / np.sqrt(2 * 576))
    assert (block["LayerNorm_0"]["scale"] == 1).all() and not attention["query"]["bias"].any()


@pytest.mark.parametrize(
    "module",
    [_modules.RecurrentLm(cell, 50, 8, 8, layers=2) for cell in ("rnn", "gru", "lstm")]
    + [_modules.TransformerLm(50, 8, layers=2, heads=2)],
    ids=["rnn", "gru", "lstm", "transformer"],
)
def test_language_models_see_the_past_and_not_the_future(module):
    """Another token at position 3 of 6 leaves the logits before it as they are, and changes all others."""
    tokens = np.array([[1, 2, 3, 4, 5, 6], [1, 2, 3, 40, 5, 6]], np.int32)

    @fast_jit
    def logits(key):
        return _nets.linen_apply(module, _nets.linen_init(module, key, 1.0, tokens), tokens)

    first, second = np.asarray(logits(KEY))
    assert first.shape == (6, 50)
    np.testing.assert_allclose(first[:3], second[:3], rtol=1e-5, atol=1e-6)
    assert (np.abs(first[3:] - second[3:]).max(axis=-1) > 1e-4).all()


def test_text_minibatches_are_pieces_of_the_text_and_each_byte_predicts_the_next():
    task = transformer_lm(width=8, layers=1, length=10, batch_size=32)
    cfg, params, batch, data = draw(task, KEY)
    rows = b"|".join(row.tobytes() for row in data["train"]["tokens"])
    assert batch["tokens"].shape == (32, 11)
    for tokens in batch["tokens"].astype(np.uint8):
        assert tokens.tobytes() in rows
    module = _modules.TransformerLm(256, 8, layers=1, heads=2)
    logits = np.float64(fast_jit(partial(_nets.linen_apply, module))(params, batch["tokens"][:, :-1]))
    picked = np.take_along_axis(special.log_softmax(logits, axis=-1), batch["tokens"][:, 1:, None], axis=-1)
    np.testing.assert_allclose(evaluate(task, cfg, params, batch, KEY)[0], -picked.mean(), rtol=1e-5)
    zeros = jax.tree.map(np.zeros_like, params)
    np.testing.assert_allclose(evaluate(task, cfg, zeros, batch, KEY)[2], 1, rtol=1e-5)
    with pytest.raises(ValueError, match="length: 128, expected under 128"):
        transformer_lm(length=128).data()


def test_a_logistic_regression_splits_the_classes_in_half():
    task = logistic_regression("digits", l2=0.1, batch_size=50)
    cfg, p, batch, _ = draw(task, KEY)
    loss, *_ = evaluate(task, cfg, p, batch, KEY)
    assert sorted(cfg["sign"]) == [-1] * 5 + [1] * 5
    margin = batch["t"] * (np.float64(batch["x"]) @ p["w"] + p["b"])
    np.testing.assert_allclose(loss, np.log1p(np.exp(-margin)).mean() + 0.05 * (p["w"] ** 2).sum(), rtol=1e-5)
    signs = fast_jit(jax.vmap(task.sample))(jax.random.split(KEY, 20))["sign"]
    assert len(np.unique(signs, axis=0)) > 15  # of 252 splits


def test_a_softmax_regression_scales_its_inputs():
    task = softmax_regression("wine", scaling=100.0)
    cfg, p, batch, _ = draw(task, KEY)
    loss, *_ = evaluate(task, cfg, p, batch, KEY)
    assert cfg["input_scale"].shape == (13,) and 0.01 <= cfg["input_scale"].min() < 0.1 < cfg["input_scale"].max() <= 1
    z = (np.float64(batch["x"]) * cfg["input_scale"]) @ p["w0"] + p["b0"]
    picked = z[np.arange(len(z)), batch["y"]]
    np.testing.assert_allclose(loss, (np.log(np.exp(z).sum(axis=-1)) - picked).mean(), rtol=1e-4)


def test_a_vae_has_the_written_loss_and_grey_pictures_have_one():
    task = image_vae("digits", hidden=(6,), latent=3, batch_size=16)
    cfg, p, batch, data = draw(task, KEY)
    x, zeros = np.float64(batch["x"]), jax.tree.map(np.zeros_like, p)
    _, aux, grey = evaluate(task, cfg, zeros, data["train"], KEY)
    np.testing.assert_allclose(grey, 1, rtol=1e-4)
    assert aux["rate"] == 0

    loss, aux, _ = evaluate(task, cfg, p, batch, KEY)
    (enc, mean, log_var, dec, out) = (p[f"Dense_{i}"] for i in range(5))
    h = np.maximum(x @ enc["kernel"] + enc["bias"], 0)
    m, v = h @ mean["kernel"] + mean["bias"], h @ log_var["kernel"] + log_var["bias"]
    z = m + np.exp(v / 2) * np.float64(jax.random.normal(KEY, (16, 3), jnp.float32))
    logits = np.maximum(z @ dec["kernel"] + dec["bias"], 0) @ out["kernel"] + out["bias"]
    x_ = np.clip(1 / (1 + np.exp(-logits)), 1e-12, 1 - 1e-12)
    kl = sum(np.where(a > 0, a * np.log(np.maximum(a, 1e-300) / b), 0) for a, b in ((x, x_), (1 - x, 1 - x_)))
    rate = (m**2 + np.exp(v) - 1 - v).sum(axis=-1) / 2
    np.testing.assert_allclose(aux["rate"], rate.mean(), rtol=1e-4)
    np.testing.assert_allclose(loss, (kl.sum(axis=-1) + rate).mean() / 64, rtol=1e-4)


def test_a_regression_is_relative_to_the_variance():
    task = tabular_regression(hidden=(4,), activation="tanh")
    cfg, p, batch, data = draw(task, KEY)
    loss, *_ = evaluate(task, cfg, p, batch, KEY)
    h = np.tanh(np.float64(batch["x"]) @ p["w0"] + p["b0"]) @ p["w1"] + p["b1"]
    np.testing.assert_allclose(loss, ((h[:, 0] - batch["y"]) ** 2).mean(), rtol=1e-5)
    zeros = jax.tree.map(np.zeros_like, p)
    np.testing.assert_allclose(evaluate(task, cfg, zeros, data["train"], KEY)[0], 1, rtol=1e-5)


def test_label_noise_is_drawn_anew_on_train_alone():
    """The labels of a fraction 0.5 are redrawn, of which a third by chance to what they were: 1/3 differ, of 4000."""
    clean, noisy = (image_mlp("wine", batch_size=4000, label_noise=noise) for noise in (0.0, 0.5))
    data, cfg = clean.data(), fast_jit(noisy.sample)(KEY)
    for split, rate in (("train", 0.5 * 2 / 3), ("outer_valid", 0.0)):
        a, b = (fast_jit(lambda d, t=t, s=split: t.batch(cfg, d, KEY, s))(data) for t in (clean, noisy))
        np.testing.assert_array_equal(a["x"], b["x"])
        changed = (a["y"] != b["y"]).mean()
        np.testing.assert_allclose(changed, rate, atol=5 * np.sqrt(rate * (1 - rate) / 4000))
    noise = fast_jit(jax.vmap(image_mlp("wine", label_noise=(0.1, 0.2)).sample))(jax.random.split(KEY, 200))
    assert 0.1 <= noise["label_noise"].min() < 0.11 and 0.19 < noise["label_noise"].max() <= 0.2


def test_members_draw_their_activations_as_often_as_said():
    task = image_mlp("wine", hidden=(5,), activation="sampled")
    index = np.asarray(fast_jit(jax.vmap(task.sample))(jax.random.split(KEY, 2000))["activation"])
    total = sum(_nets.FREQUENCIES.values())
    for i, (name, frequency) in enumerate(_nets.FREQUENCIES.items()):
        share = frequency / total
        np.testing.assert_allclose((index == i).mean(), share, atol=5 * np.sqrt(share / 2000), err_msg=name)
    cfg, params, batch, _ = draw(task, KEY)
    loss, *_ = evaluate(task, cfg, params, batch, KEY)
    name = list(_nets.FREQUENCIES)[int(cfg["activation"])]
    named = image_mlp("wine", hidden=(5,), activation=name)
    np.testing.assert_allclose(loss, evaluate(named, cfg, params, batch, KEY)[0], rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("image_conv", {"norm": "batch"}, "unknown 'batch', expected one of none, layer, group"),
        ("image_vit", {"width": 9}, "width: 9, expected a multiple of heads=2"),
        ("transformer_lm", {"width": 9}, "width: 9"),
        ("transformer_lm", {"length": 0}, "length: 0"),
        ("rnn_lm", {"cell": "lstn"}, "unknown 'lstn', expected one of rnn, gru, lstm"),
        ("softmax_regression", {"scaling": 0.5}, "scaling: 0.5"),
        ("two_moons", {"activation": "rellu"}, "unknown 'rellu'"),
    ],
)
def test_wrong_arguments_are_errors_at_once(name, arguments, message):
    with pytest.raises(ValueError, match=message):
        TASKS[name](**arguments)


def test_data_of_the_wrong_kind_are_errors_when_they_are_needed():
    with pytest.raises(ValueError, match=r"dataset: wine has rows of shape \(13,\), expected images"):
        TASKS["image_conv"]("wine").data()
    with pytest.raises(ValueError, match=r"dataset: wine has values from -.* expected \[0, 1\]"):
        TASKS["image_vae"]("wine").data()
    with pytest.raises(Exception, match="text is needed"):
        TASKS["rnn_lm"]("digits").data()
    assert load("topics")["train"]["tokens"].dtype == np.uint8
