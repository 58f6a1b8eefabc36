"""What is kept on disk: the weights of a learned optimizer (safetensors), the state of a run (orbax), and what comes
from other implementations.

No format here holds code, so that reading a file never runs any. All that a user has to know is a CheckpointError.
"""

from metaopt.checkpoint.files import CheckpointError, named_leaves, write_atomic
from metaopt.checkpoint.reference import from_reference, read_reference
from metaopt.checkpoint.state import restore_latest, save_state
from metaopt.checkpoint.weights import read_weights, restore_weights, save_weights

__all__ = [
    "CheckpointError",
    "from_reference",
    "named_leaves",
    "read_reference",
    "read_weights",
    "restore_latest",
    "restore_weights",
    "save_state",
    "save_weights",
    "write_atomic",
]
