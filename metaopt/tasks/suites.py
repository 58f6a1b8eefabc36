"""Named lists of tasks. An entry is a task's name with keyword arguments, as in a config file.

Plain literals only: the command line reads them from the source text. What is trained on or chosen by (`train_*` and
`valid`) and what is held out (`heldout_*`) share no family and no data set:

    trained on     classifiers and VAEs of digits, by convolutions, patches or random halves of the classes;
                   regression on diabetes; recurrent language models of topics; moons, flows, pictures by
                   coordinates, factorisation
    held out       classifiers and autoencoders of breast_cancer, wine and fashion_mnist, by fully connected, linear and
                   residual networks; transformers on Python sources; quadratics and test functions; meta-training

`valid_small` alone is of another kind: it goes with configs/quickstart.yaml, which trains on held-out families, on
other data.
"""

SUITES: dict[str, tuple[dict, ...]] = {
    "train_small": (
        {"name": "image_conv", "dataset": "digits", "widths": [4, 8], "init_scale": [0.5, 2.0]},
        {"name": "image_vae", "dataset": "digits", "hidden": [16], "latent": 4, "init_scale": [0.5, 2.0]},
        {"name": "logistic_regression", "dataset": "digits", "init_scale": [0.5, 2.0]},
        {"name": "tabular_regression", "dataset": "diabetes", "hidden": [16]},
        {"name": "two_moons"},
        {"name": "matrix_factorization"},
    ),
    "train_diverse": (
        {"name": "image_conv", "dataset": "digits", "init_scale": [0.5, 2.0], "label_noise": [0.0, 0.3]},
        {"name": "image_conv", "dataset": "digits", "norm": "layer", "activation": "gelu", "init_scale": [0.5, 2.0]},
        {"name": "image_mixer", "dataset": "digits", "init_scale": [0.5, 2.0]},
        {"name": "image_vit", "dataset": "digits", "init_scale": [0.5, 2.0]},
        {"name": "image_vae", "dataset": "digits", "init_scale": [0.5, 2.0]},
        {"name": "logistic_regression", "dataset": "digits", "init_scale": [0.5, 2.0]},
        {"name": "tabular_regression", "dataset": "diabetes", "hidden": [16, 16], "activation": "tanh"},
        {"name": "rnn_lm", "dataset": "topics", "cell": "gru", "length": 16, "init_scale": [0.5, 2.0]},
        {"name": "two_moons"},
        {"name": "normalizing_flow"},
        {"name": "coordinate_network"},
        {"name": "matrix_factorization"},
    ),
    "valid": (
        {"name": "image_conv", "dataset": "digits", "widths": [12, 12], "norm": "group", "activation": "silu"},
        {"name": "image_mixer", "dataset": "digits", "patch": 4, "width": 24},
        {"name": "image_vae", "dataset": "digits", "hidden": [48], "latent": 6},
        {"name": "tabular_regression", "dataset": "diabetes", "hidden": [24], "activation": "gelu"},
        {"name": "rnn_lm", "dataset": "topics", "cell": "lstm", "hidden": 24, "length": 16},
        {"name": "two_moons", "hidden": [24], "activation": "elu"},
        {"name": "normalizing_flow", "modes": 3},
        {"name": "matrix_factorization", "rows": 20, "columns": 20, "rank": 3},
        # of few data, which can be learned by heart, or one minibatch, a deterministic problem
        {"name": "few_batches", "base": {"name": "image_conv", "dataset": "digits", "widths": [8, 8]}, "high": 8},
        {"name": "few_batches", "base": {"name": "logistic_regression", "dataset": "digits", "l2": 0.0}, "high": 4},
        {
            "name": "few_batches",
            "base": {"name": "tabular_regression", "dataset": "diabetes", "hidden": [24]},
            "high": 2,
        },
        {"name": "few_batches", "base": {"name": "two_moons", "hidden": [12], "activation": "tanh"}, "high": 1},
        {
            "name": "few_batches",
            "base": {"name": "matrix_factorization", "rows": 6, "columns": 5, "rank": 2},
            "high": 1,
        },
    ),
    "valid_tiny": (
        {"name": "few_batches", "base": {"name": "two_moons", "hidden": [], "noise": [0.01, 0.2]}, "high": 4},
        {"name": "few_batches", "base": {"name": "two_moons", "hidden": [4], "activation": "tanh"}, "high": 2},
        {
            "name": "few_batches",
            "base": {"name": "matrix_factorization", "rows": 4, "columns": 3, "rank": 1},
            "high": 1,
        },
        {
            "name": "few_batches",
            "base": {"name": "matrix_factorization", "rows": 8, "columns": 6, "rank": 3, "condition": [10.0, 100.0]},
            "high": 1,
        },
        {
            "name": "few_batches",
            "base": {"name": "tabular_regression", "dataset": "diabetes", "hidden": [6], "activation": "gelu"},
            "high": 1,
        },
        {"name": "few_batches", "base": {"name": "coordinate_network", "hidden": [10]}, "high": 2},
        {
            "name": "few_batches",
            "base": {"name": "logistic_regression", "dataset": "digits", "l2": 0.0, "batch_size": 8},
            "high": 2,
        },
        {"name": "few_batches", "base": {"name": "normalizing_flow", "layers": 1}, "high": 1},
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
    "heldout_full": (
        {"name": "image_mlp", "dataset": "breast_cancer", "hidden": [32]},
        {"name": "image_mlp", "dataset": "wine", "hidden": [32], "activation": "tanh"},
        {"name": "image_mlp", "dataset": "fashion_mnist", "hidden": [32]},
        {"name": "image_mlp", "dataset": "fashion_mnist", "hidden": [64, 64], "activation": "gelu"},
        {"name": "image_mlp", "dataset": "breast_cancer", "hidden": []},
        {"name": "image_mlp", "dataset": "wine", "hidden": []},
        {"name": "softmax_regression", "dataset": "fashion_mnist"},
        {"name": "image_resnet", "dataset": "fashion_mnist", "widths": [4, 8], "batch_size": 16},
        {"name": "image_autoencoder", "dataset": "wine", "hidden": [16, 4, 16]},
        {"name": "image_autoencoder", "dataset": "breast_cancer", "hidden": [16, 4, 16], "activation": "tanh"},
        {"name": "image_autoencoder", "dataset": "fashion_mnist", "hidden": [32, 8, 32]},
        {"name": "transformer_lm", "dataset": "source"},
        {"name": "meta_training"},
        {"name": "quadratic", "dim": 10},
        {"name": "quadratic", "dim": 50, "condition": 100.0},
        {"name": "taskset_quadratic"},
        {"name": "bowl"},
        {"name": "valley"},
        {"name": "rosenbrock"},
        {"name": "ackley"},
        {"name": "beale"},
        {"name": "styblinski_tang"},
    ),
}

PURPOSES = {
    "train_small": "six cheap families to meta-train on in minutes on two cores",
    "train_diverse": "twelve entries of eleven families and three data sets, members of many scales: to meta-train on",
    "valid": "other members of the families that are trained on, with many data and few: chooses weights and settings",
    "valid_tiny": "the same families with a few numbers and a few data, problems to converge on: chooses settings",
    "valid_small": "networks on digits: chooses the best weights of configs/quickstart.yaml",
    "heldout_small": "other data and other families than the training suites': a minute on two cores at 1000 steps",
    "heldout_full": "all families and data that are held out of training: heldout_small and as much again",
}
