"""Task families by name. A factory takes keyword arguments and returns a `metaopt.types.Task`."""

from metaopt.tasks.image_mlp import image_mlp
from metaopt.tasks.quadratic import quadratic

TASKS = {
    "image_mlp": image_mlp,
    "quadratic": quadratic,
}
