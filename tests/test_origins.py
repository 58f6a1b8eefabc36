"""What a run writes down about its data: which data set each family had, its sum, and whether it is made up."""

import hashlib

from metaopt import build, config, data

RAW = {
    "steps": 20,
    "optimizer": "hyper",
    "estimator": {"name": "pes", "num_tasks": 4, "truncation": 3, "horizon": 9},
    "valid": None,
    "heldout": None,
}


def test_where_the_data_of_a_run_are_from(tmp_path, monkeypatch):
    """The sum is that of hashlib over the data set's own file format: name, dtype, shape and bytes of every array."""
    (tmp_path / "own.py").write_text(
        "import jax.numpy as jnp, numpy as np\nfrom metaopt.tasks import from_loss\n\n\ndef line():\n"
        "    loss = lambda params, batch, key: jnp.sum(batch['x']) * params\n"
        "    return from_loss(lambda key: jnp.ones(()), loss, {'x': np.arange(40, dtype=np.float32)})\n"
    )
    monkeypatch.chdir(tmp_path)
    wrapped = {"name": "small_batches", "base": {"name": "image_autoencoder", "dataset": "synthetic_images"}}
    mlp = {"name": "image_mlp", "dataset": "wine"}
    settings = config.parse(
        {**RAW, "tasks": [mlp, {"name": "image_autoencoder", "dataset": "wine"}, wrapped, "own:line", "quadratic"]},
        "test",
    )
    members = build.families(settings, build.optimizer(settings.optimizer))
    found = build.origins(settings.tasks, members)
    total = hashlib.sha256()
    splits = data.load("wine")
    for split, key in sorted((name, key) for name in splits for key in splits[name]):
        x = splits[split][key]
        total.update(f"{split}/{key} {x.dtype.str} {x.shape}\n".encode() + x.tobytes())
    assert list(found.values())[:2] == [{"dataset": "wine", "sha256": total.hexdigest(), "synthetic": False}] * 2
    assert [(x["dataset"], x["synthetic"]) for x in found.values()] == [
        *(("wine", False), ("wine", False), ("synthetic_images", True), (None, False))
    ]
    assert len({x["sha256"] for x in found.values()}) == 3
    own = members[3].data["train"]["x"]
    own[0] += 1
    assert build.origins(settings.tasks, members)["own:line"] != found["own:line"]
