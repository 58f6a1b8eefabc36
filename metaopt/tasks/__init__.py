"""Task families by name. A factory takes keyword arguments and returns a `metaopt.types.Task`."""

from metaopt.tasks.image_autoencoder import image_autoencoder
from metaopt.tasks.image_mlp import image_mlp
from metaopt.tasks.quadratic import quadratic
from metaopt.tasks.rosenbrock import rosenbrock

TASKS = {
    "image_mlp": image_mlp,
    "image_autoencoder": image_autoencoder,
    "quadratic": quadratic,
    "rosenbrock": rosenbrock,
}
