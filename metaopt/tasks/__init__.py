"""Task families by name. A factory takes keyword arguments and returns a `metaopt.types.Task`."""

from metaopt.tasks.coordinate_network import coordinate_network
from metaopt.tasks.functions import ackley, beale, bowl, rosenbrock, styblinski_tang, valley
from metaopt.tasks.image_autoencoder import image_autoencoder
from metaopt.tasks.image_conv import image_conv
from metaopt.tasks.image_mixer import image_mixer
from metaopt.tasks.image_mlp import image_mlp
from metaopt.tasks.image_resnet import image_resnet
from metaopt.tasks.image_vae import image_vae
from metaopt.tasks.image_vit import image_vit
from metaopt.tasks.logistic_regression import logistic_regression
from metaopt.tasks.matrix_factorization import matrix_factorization
from metaopt.tasks.meta_training import meta_training
from metaopt.tasks.normalizing_flow import normalizing_flow
from metaopt.tasks.quadratic import quadratic
from metaopt.tasks.rnn_lm import rnn_lm
from metaopt.tasks.softmax_regression import softmax_regression
from metaopt.tasks.tabular_regression import tabular_regression
from metaopt.tasks.taskset_quadratic import taskset_quadratic
from metaopt.tasks.transformer_lm import transformer_lm
from metaopt.tasks.two_moons import two_moons

TASKS = {
    "image_mlp": image_mlp,
    "image_conv": image_conv,
    "image_resnet": image_resnet,
    "image_vit": image_vit,
    "image_mixer": image_mixer,
    "image_autoencoder": image_autoencoder,
    "image_vae": image_vae,
    "softmax_regression": softmax_regression,
    "logistic_regression": logistic_regression,
    "tabular_regression": tabular_regression,
    "two_moons": two_moons,
    "rnn_lm": rnn_lm,
    "transformer_lm": transformer_lm,
    "normalizing_flow": normalizing_flow,
    "coordinate_network": coordinate_network,
    "matrix_factorization": matrix_factorization,
    "meta_training": meta_training,
    "quadratic": quadratic,
    "taskset_quadratic": taskset_quadratic,
    "bowl": bowl,
    "valley": valley,
    "rosenbrock": rosenbrock,
    "ackley": ackley,
    "beale": beale,
    "styblinski_tang": styblinski_tang,
}
