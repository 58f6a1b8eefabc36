"""Named lists of tasks. An entry is a task's name with keyword arguments, as in a config file.

Plain literals only: the command line reads them from the source text. No held-out suite shares a pair of family and
data set with a suite that is trained on or chosen by.
"""

SUITES: dict[str, tuple[dict, ...]] = {
    "train_digits": (
        {"name": "image_mlp", "dataset": "digits", "hidden": [32]},
        {"name": "image_autoencoder", "dataset": "digits", "hidden": [32, 8, 32]},
    ),
    "valid_small": (
        {"name": "image_mlp", "dataset": "digits", "hidden": [24]},
        {"name": "image_mlp", "dataset": "digits", "hidden": [32, 16], "activation": "gelu"},
        {"name": "image_autoencoder", "dataset": "digits", "hidden": [24, 6, 24], "activation": "tanh"},
    ),
    "heldout_small": (
        {"name": "image_mlp", "dataset": "breast_cancer", "hidden": [32]},
        {"name": "image_mlp", "dataset": "wine", "hidden": [32], "activation": "tanh"},
        {"name": "image_mlp", "dataset": "fashion_mnist", "hidden": [32]},
        {"name": "image_mlp", "dataset": "breast_cancer", "hidden": []},
        {"name": "image_mlp", "dataset": "wine", "hidden": []},
        {"name": "image_autoencoder", "dataset": "wine", "hidden": [16, 4, 16]},
        {"name": "image_autoencoder", "dataset": "breast_cancer", "hidden": [16, 4, 16], "activation": "tanh"},
        {"name": "quadratic", "dim": 10},
        {"name": "quadratic", "dim": 50, "condition": 100.0},
        {"name": "rosenbrock"},
    ),
}

PURPOSES = {
    "train_digits": "a classifier and an autoencoder of digits: what configs/quickstart.yaml trains on",
    "valid_small": "other networks on digits: chooses the best weights during training",
    "heldout_small": "other data and other families, never trained on: a minute on two cores at 1000 steps",
}
