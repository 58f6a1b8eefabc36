"""What is written on the command line, as the contender it stands for."""

import json

import jax
import numpy as np
import pytest

from metaopt import config, contenders, evaluation, weights
from metaopt.checkpoint import save_weights
from metaopt.evaluate import spaces, sweeps
from metaopt.evaluate.suite import compare
from metaopt.evaluate.trials import Cache
from metaopt.optimizers import OPTIMIZERS
from metaopt.train import RunError


def one(text, trials=14):
    return contenders.contenders([text], trials)[0]


def names(*texts, trials=14):
    return [contender.name for contender in contenders.contenders(texts, trials)]


def test_the_two_that_are_always_there_come_last_and_once():
    assert names() == ["adam:lr=0.001", "adam@14"]
    assert names("adam", "sgd:lr=1", "adam:lr=1e-3") == ["adam@14", "sgd:lr=1", "adam:lr=0.001"]


@pytest.mark.parametrize(
    ("text", "name", "kind", "trials"),
    [
        ("adamw:lr=1e-3", "adamw:lr=0.001", "fixed", 1),
        ("adamw:learning_rate=1e-3,b1=0.5", "adamw:lr=0.001,b1=0.5", "fixed", 1),
        ("sgd", "sgd@14", "tuned", 14),
        ("sgd@5", "sgd@5", "tuned", 5),
        ("sgd:schedule=cosine,warmup=0.1", "sgd:schedule=cosine,warmup=0.1@14", "tuned", 14),
        (
            "lion:schedule=step_drop,schedule.factor=0.5,lr=3",
            "lion:lr=3,schedule=step_drop,schedule.factor=0.5",
            "fixed",
            1,
        ),
        ("sgd:batch_size=1,lr=3", "sgd:lr=3,batch_size=1", "fixed", 1),
        ("sgd:batch_size=full", "sgd:batch_size=full@14", "tuned", 14),
        ("nadamw8p@30", "nadamw8p@30", "tuned", 30),
        ("adam8p", "adam8p@14", "tuned", 14),
    ],
)
def test_hand_designed(text, name, kind, trials):
    found = one(text)
    assert (found.name, found.kind, found.trials) == (name, kind, trials)
    assert one(name).identity == found.identity  # a name says all


def test_a_budget_larger_than_the_rates_takes_them_all():
    assert names("sgd", trials=1000)[0] == "sgd@14" and one("nadamw8p", trials=1000).trials == 1000


def test_the_optimizer_of_a_contender_has_its_hyper_parameters():
    found = one("sgd:schedule=linear@3")
    tx = found.optimizer.build(jax.tree.map(lambda x: x[1], found.thetas), 10)
    params = np.float32([1.0])
    updates, _ = tx.update(params, tx.init(params), params, value=1.0)
    rate = spaces.values("learning_rate", 3)["learning_rate"][1]
    np.testing.assert_allclose(updates, [-rate], rtol=1e-6)  # of step 0, before the schedule begins to fall


def test_identity_tells_rules_and_candidates_apart():
    texts = ["sgd", "sgd:lr=1", "sgd:lr=2", "sgd:schedule=cosine", "sgd:batch_size=1", "adam", "nadamw8p", "adam8p"]
    identities = [repr(one(text).identity) for text in texts]
    assert len(set(identities)) == len(texts)
    assert one("nadamw8p@3").identity == one("nadamw8p@30").identity  # the first ones are the same
    rule = lambda text: one(text).identity["optimizer"]  # noqa: E731
    assert rule("sgd") == rule("sgd:lr=1") != rule("sgd:schedule=cosine")  # what shares a program


def test_learned(tmp_path):
    theta = OPTIMIZERS["adafac_mlp"]().init(jax.random.key(0))
    entry = config.entry("optimizers", {"name": "adafac_mlp"}, "test").model_dump()
    (tmp_path / "wide").mkdir()
    save_weights(tmp_path / "wide" / "theta.safetensors", theta, {"optimizer": entry})
    save_weights(tmp_path / "b.safetensors", theta, {"optimizer": entry})
    folder, file = one(str(tmp_path / "wide")), one(str(tmp_path / "b.safetensors"))
    assert (folder.name, file.name, file.kind, file.trials) == ("wide", "b", "learned", 1)
    assert folder.identity == file.identity and "197" in file.about
    moved = jax.tree.map(lambda x: x + 1, theta)
    again, other = (contenders.learned("c", file.optimizer, weights, entry) for weights in (theta, moved))
    known = [json.dumps(contender.identity, sort_keys=True) for contender in (file, again, other)]
    assert known[0] == known[1] != known[2]
    jax.tree.map(
        np.testing.assert_array_equal,
        jax.tree.map(lambda x: x[0], file.thetas),
        weights.read(tmp_path / "b.safetensors").theta,
    )


@pytest.mark.parametrize(
    ("text", "error", "match"),
    [
        ("adma", RunError, "adma: neither weights nor a hand-designed optimizer.*did you mean 'adamax'"),
        ("runs/none", RunError, "runs/none: neither weights nor"),
        ("nadamw8q", RunError, "did you mean"),
        ("sgd@0", config.ConfigError, "sgd@0: expected a number of trials behind @, got 0"),
        ("sgd@x", config.ConfigError, "number of trials behind @, got x"),
        ("sgd@15", config.ConfigError, "at most 14 trials, got 15"),
        ("nadamw8p@1001", config.ConfigError, "at most 1000 trials"),
        ("nadamw8p:lr=1", config.ConfigError, "no options"),
        ("sgd:lr=-1", config.ConfigError, "a positive learning rate, got -1"),
        ("sgd:lr=fast", config.ConfigError, "a positive learning rate, got fast"),
        ("sgd:lr=1@3", config.ConfigError, "a learning rate, or a number of trials"),
        ("sgd:batch_size=0", config.ConfigError, "a positive batch_size, or full, got 0"),
        ("sgd:lr", config.ConfigError, "expected key=value"),
        ("sgd:schedule=cosin", config.ConfigError, "did you mean cosine"),
        ("sgd:schedule=cosine,schedule.dip=3", config.ConfigError, "did you mean dips"),
        ("sgd:momentun=0.5", RunError, "did you mean 'momentum'"),
    ],
)
def test_errors_say_what_is_wrong(text, error, match):
    with pytest.raises(error, match=match):
        one(text)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(weights.CheckpointError, match="none.safetensors: no such file"):
        one(str(tmp_path / "none.safetensors"))


def test_a_contender_with_batches_of_its_own_meets_the_same_members(tmp_path):
    entry = config.entry("tasks", {"name": "image_mlp", "dataset": "wine", "hidden": [], "batch_size": 8}, "test")
    problem = evaluation._problem("wine", sweeps.Point(entry.model_dump(), 4))
    texts = ["sgd:lr=0.1", "sgd:lr=0.1,batch_size=8", "sgd:lr=0.1,batch_size=1", "sgd:lr=0.1,batch_size=full"]
    entrants = contenders.contenders(texts, 1)[:4]
    assert [contender.batch_size for contender in entrants] == [None, 8, 1, "full"]
    data = problem.task.data()
    assert problem.with_batch("full").batch({}, data, jax.random.key(0), "train")["y"].shape == data["train"]["y"].shape
    found = compare([problem], entrants, seeds=2, cache=Cache(tmp_path, None), progress=lambda *x: None)
    curves = {name: search.runs.smooth for name, search in found.searches["wine"].items()}
    same, own, one, full = (curves[contender.name] for contender in entrants)
    np.testing.assert_array_equal(same, own)
    assert not np.any(one == same) and not np.any(full == same)
    # Loss before any update, of the same model: on one row, on 8 and on 142; a logarithm of 3 classes, and a bit
    assert all(0.1 < loss < 5 for curve in (one, full, same) for loss in curve[..., 0].ravel())
