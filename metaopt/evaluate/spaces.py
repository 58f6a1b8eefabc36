"""Search spaces of hand-designed optimizers: which hyper-parameters the trials 0, 1, 2, ... have.

The first k trials of a space are the same whatever the budget. Values are natural ones (a rate, not its logarithm), as
arrays [trials].

    learning_rate  14 rates, half a decade apart, 1e-6 to 3.2, the usual one first and then outwards
    nadamw8p       random: TaskSet (Metz et al. 2020, arXiv:2002.11887), the space of the OptList
    adam8p         random: Adam with eight hyper-parameters, of the same paper
    ordered        nadamw8p's own draws, in an order in which the first k are good together (`ordered_list.json`)
"""

import json
import zlib
from collections.abc import Callable
from importlib.resources import files

import numpy as np

Values = dict[str, np.ndarray]

# They include 1e-3, so that tuned Adam never ends above Adam at 1e-3.
RATES = tuple(float(f"{10.0**e:.6g}") for e in np.arange(-6, 1, 0.5))
USUAL_RATE = 1e-3
DRAWS = 1000  # of a random space: the largest budget


def size(space: str) -> int:
    """How many trials the space has."""
    return len(SPACES[space]()["learning_rate"])


def values(space: str, trials: int) -> Values:
    """The first `trials` of the space."""
    return {name: column[:trials] for name, column in SPACES[space]().items()}


def learning_rates() -> Values:
    order = np.argsort(np.abs(np.log10(np.array(RATES) / USUAL_RATE)), kind="stable")
    return {"learning_rate": np.array(RATES)[order]}


def nadamw8p() -> Values:
    """log U(a, b) is uniform in the logarithm; p(...) a coin.

    learning_rate log U(1e-5, 1), 1 - b1 log U(1e-3, 1), 1 - b2 log U(1e-5, 1), eps log U(1e-8, 1e4), Nesterov p(1/2);
    weight decay of AdamW, L2 or both, a third each, log U(1e-5, 0.1); warm-up p(1/2), log U(1e-5, 0.1) of the run;
    end share 0 with p(1/2), else log U(1e-5, 1); constant for U(0, 1) of the run.
    """
    draw = _draws("nadamw8p")
    kind = (draw("kind") * 3).astype(int)  # 0: AdamW's decay, 1: L2, 2: both
    return {
        "learning_rate": _log(draw("learning_rate"), 1e-5, 1.0),
        "b1": 1 - _log(draw("b1"), 1e-3, 1.0),
        "b2": 1 - _log(draw("b2"), 1e-5, 1.0),
        "eps": _log(draw("eps"), 1e-8, 1e4),
        "nesterov": (draw("nesterov") < 0.5).astype(float),
        "weight_decay": np.where(kind == 1, 0.0, _log(draw("weight_decay"), 1e-5, 1e-1)),
        "l2": np.where(kind == 0, 0.0, _log(draw("l2"), 1e-5, 1e-1)),
        "warmup": np.where(draw("warm") < 0.5, 0.0, _log(draw("warmup"), 1e-5, 1e-1)),
        "constant": draw("constant"),
        "end": np.where(draw("ends") < 0.5, 0.0, _log(draw("end"), 1e-5, 1.0)),
    }


def adam8p() -> Values:
    """learning_rate log U(1e-8, 10), 1 - b1 log U(1e-4, 1), 1 - b2 log U(1e-6, 1), eps log U(1e-10, 1e3), l1 and l2
    log U(1e-8, 10), linear decay log U(1e-7, 1e-4), exponential decay log U(1e-6, 1e-3)."""
    draw = _draws("adam8p")
    return {
        "learning_rate": _log(draw("learning_rate"), 1e-8, 10.0),
        "b1": 1 - _log(draw("b1"), 1e-4, 1.0),
        "b2": 1 - _log(draw("b2"), 1e-6, 1.0),
        "eps": _log(draw("eps"), 1e-10, 1e3),
        "l1": _log(draw("l1"), 1e-8, 10.0),
        "l2": _log(draw("l2"), 1e-8, 10.0),
        "linear_decay": _log(draw("linear_decay"), 1e-7, 1e-4),
        "exponential_decay": _log(draw("exponential_decay"), 1e-6, 1e-3),
    }


def ordered() -> Values:
    return {name: column[ordered_list()] for name, column in nadamw8p().items()}


def ordered_list() -> list[int]:
    """Draws of nadamw8p, best first, learned greedily on tasks that are trained on: see experiments/ordered_list."""
    return json.loads((files("metaopt.evaluate") / "ordered_list.json").read_text(encoding="utf-8"))["draws"]


SPACES: dict[str, Callable[[], Values]] = {
    "learning_rate": learning_rates,
    "nadamw8p": nadamw8p,
    "adam8p": adam8p,
    "ordered": ordered,
}


def greedy_order(losses: np.ndarray, length: int) -> list[int]:
    """An order of trials in which the first k are good together: losses [tasks, trials], lower is better.

    Trial k is the one that lowers the mean over tasks of the best loss of trials 0 .. k most; of equals the one with
    the lowest mean loss, then the first.

    Source: Metz et al. 2020 (arXiv:2002.11887), section 4: the OptList.
    """
    best, alone = np.full(len(losses), np.inf), losses.mean(axis=0)
    order: list[int] = []
    for _ in range(length):
        scores = np.minimum(best[:, None], losses).mean(axis=0)
        scores[order] = np.inf
        order.append(int(np.lexsort((alone, scores))[0]))
        best = np.minimum(best, losses[:, order[-1]])
    return order


def _draws(space: str) -> Callable[[str], np.ndarray]:
    """Uniform numbers of a column [DRAWS]: from a generator of its own, so that columns do not depend on each other."""
    return lambda name: np.random.default_rng(zlib.crc32(f"{space}/{name}".encode())).random(DRAWS)


def _log(u: np.ndarray, low: float, high: float) -> np.ndarray:
    return low * (high / low) ** u
