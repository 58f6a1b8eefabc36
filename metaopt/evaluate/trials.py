"""The trials of one contender on one task: what a search over hyper-parameters keeps, and its place on the disk.

Of all trials the final losses are kept, and whole curves of those that were the best so far: with them the first k
trials, for every k, are a search with a budget of k.

A file of the cache, HASH.npz, holds one search; its name is the sha256 of a description of everything that its numbers
depend on (`Cache`), which the file repeats in words.
"""

import hashlib
import json
import zipfile
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from metaopt.evaluate.metrics import Runs
from metaopt.files import write_atomic

VERSION = 1  # of the curves: to be raised by whoever changes what a run of a task computes
SHIPPED = Path(__file__).parent / "heldout_small.zip"


class Search(NamedTuple):
    """Trials in their order; float32.

    finals           [trials, seeds] final losses, +inf where not finite
    best             [kept] ascending: the trials that had the lowest mean final loss so far
    runs             of those, leading axes [kept, seeds]
    seconds_per_step of a run on a device, the problem's gradient included; nan for trials side by side, and elsewhere
    state_bytes      of the optimizer, for one run
    """

    finals: np.ndarray
    best: np.ndarray
    runs: Runs
    seconds_per_step: float
    state_bytes: int

    def chosen(self, trials: int) -> int:
        """The best of the first `trials` (a position in `best`): the lowest mean final loss over seeds.

        A trial with a seed that is not finite loses to every other one. Tuning sees the very seeds that are reported,
        which favours the baseline: a win over it is, if anything, understated.
        """
        return int(np.searchsorted(self.best, trials)) - 1


def search(runs: Runs, seconds_per_step: float, state_bytes: int) -> Search:
    """Keeps what matters of the runs of all trials, leading axes [trials, seeds]."""
    finals = runs.smooth[..., -1]
    means = finals.astype(np.float64).mean(axis=-1)
    lowest = np.minimum.accumulate(np.concatenate([[np.inf], means[:-1]]))
    best = np.flatnonzero((means < lowest) | (np.arange(len(means)) == 0))
    return Search(finals, best, Runs(*(x[best] for x in runs)), seconds_per_step, state_bytes)


class Cache(NamedTuple):
    """Searches by description: in a folder, and in a zip file of such files, which is only read."""

    folder: Path
    shipped: Path | None = SHIPPED
    fresh: bool = False  # nothing is read: all is run again

    def get(self, description: dict[str, Any], trials: int, machine: str) -> Search | None:
        """The search if there is one of at least as many trials, else None. Its time counts on its own machine."""
        if self.fresh:
            return None
        name = _name(description)
        for content in (_folder(self.folder, name), _zip(self.shipped, name)):
            found = _parsed(content, description, machine) if content is not None else None
            if found is not None and len(found.finals) >= trials:
                return found
        return None

    def put(self, description: dict[str, Any], found: Search, machine: str) -> Path:
        """Writes a search; a reader never sees half of it."""
        about = {**description, "machine": machine}
        numbers = {"seconds_per_step": found.seconds_per_step, "state_bytes": found.state_bytes}
        arrays = {"finals": found.finals, "best": found.best, **found.runs._asdict()}
        file = BytesIO()
        text = np.array(json.dumps({"about": about, **numbers}))
        np.savez_compressed(file, **{"description": text, **arrays})
        self.folder.mkdir(parents=True, exist_ok=True)
        write_atomic(path := self.folder / _name(description), file.getvalue())
        return path


def ship(files: Sequence[Path], target: Path) -> None:
    """Packs files of a cache into one zip file; equal files give equal bytes."""
    content = BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for file in sorted(files, key=lambda path: path.name):
            archive.writestr(zipfile.ZipInfo(file.name), file.read_bytes())  # a fixed date, and npz is compressed
    write_atomic(target, content.getvalue())


def _name(description: dict[str, Any]) -> str:
    text = json.dumps({"version": VERSION, **description}, sort_keys=True)
    return f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.npz"


def _folder(folder: Path, name: str) -> bytes | None:
    try:
        return (folder / name).read_bytes()
    except OSError:
        return None


def _zip(path: Path | None, name: str) -> bytes | None:
    if path is None or not path.exists():
        return None
    with zipfile.ZipFile(path) as archive:
        return archive.read(name) if name in archive.namelist() else None


def _parsed(content: bytes, description: dict[str, Any], machine: str) -> Search | None:
    """None for a file that is damaged: what it held is computed again, and replaces it."""
    try:
        with np.load(BytesIO(content), allow_pickle=False) as file:
            about = json.loads(str(file["description"]))
            runs = Runs(*(file[name] for name in Runs._fields))
            here = about["about"]["machine"] == machine
            seconds = float(about["seconds_per_step"]) if here else float("nan")
            found = Search(file["finals"], file["best"], runs, seconds, int(about["state_bytes"]))
    except (OSError, EOFError, ValueError, KeyError, TypeError, zipfile.BadZipFile):
        return None
    same = all(about["about"].get(key) == json.loads(json.dumps(value)) for key, value in description.items())
    return found if same else None
