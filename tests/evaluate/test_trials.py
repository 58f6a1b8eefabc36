"""What a search keeps, its place on the disk, and the spaces that its trials come from."""

import json
import zipfile

import numpy as np
import pytest

from metaopt.evaluate import spaces, sweeps
from metaopt.evaluate.metrics import Runs
from metaopt.evaluate.trials import Cache, search, ship

FINALS = np.array([[5.0, 5.0], [4.0, np.inf], [3.0, 4.0], [3.0, 4.0], [9.0, 1.0], [1.0, 2.0]], np.float32)
BY_HAND = [0, 0, 2, 2, 2, 5]  # the best of the first k: a tie goes to the first, a failure loses to all


def found(finals=FINALS):
    smooth = np.stack([np.full_like(finals, 9.0), finals], axis=-1)
    return search(Runs(smooth, finals + 1, np.stack([finals + 2], axis=-1)), 1e-3, 8)


def test_every_budget_has_its_own_winner():
    result = found()
    assert [int(result.best[result.chosen(k)]) for k in range(1, 7)] == BY_HAND
    np.testing.assert_array_equal(result.runs.smooth[..., -1], FINALS[[0, 2, 5]])
    np.testing.assert_array_equal(result.runs.valid[..., 0], FINALS[[0, 2, 5]] + 2)


def test_a_search_that_failed_altogether_still_has_a_winner():
    result = found(np.full((3, 2), np.inf, np.float32))
    assert result.best.tolist() == [0] and result.chosen(3) == 0


def test_the_cache_gives_back_what_it_was_given(tmp_path):
    cache, about = Cache(tmp_path / "new", None), {"task": "a", "steps": 3}
    assert cache.get(about, 1, "here") is None
    cache.put(about, found(), "here")
    back = cache.get(about, 6, "here")
    for mine, theirs in zip((*found()[:2], *found().runs), (*back[:2], *back.runs), strict=True):
        np.testing.assert_array_equal(mine, theirs)
    assert (back.seconds_per_step, back.state_bytes) == (1e-3, 8)
    assert np.isnan(cache.get(about, 6, "elsewhere").seconds_per_step)  # a time belongs to a machine
    assert cache.get(about, 7, "here") is None  # it has six trials
    assert cache.get({**about, "steps": 4}, 6, "here") is None
    assert cache._replace(fresh=True).get(about, 6, "here") is None


@pytest.mark.parametrize("damage", [b"", b"PK\x03\x04 and nothing more", "half", "foreign"])
def test_a_damaged_file_is_as_good_as_none(tmp_path, damage):
    cache, about = Cache(tmp_path, None), {"task": "a"}
    path = cache.put(about, found(), "here")
    content = {"half": path.read_bytes()[: path.stat().st_size // 2]}.get(damage, damage)
    if damage == "foreign":
        other = cache.put({"task": "b"}, found(), "here")
        content = other.read_bytes()
    path.write_bytes(content)
    assert cache.get(about, 1, "here") is None


class Evil:
    """Unpickled, it leaves a trace."""

    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return self.trace.touch, ()


def test_a_file_that_would_execute_code_is_not_read(tmp_path):
    cache, about = Cache(tmp_path, None), {"task": "a"}
    path = cache.put(about, found(), "here")
    with np.load(path) as file:
        arrays = dict(file)
    with path.open("wb") as file:
        np.savez(file, **{**arrays, "finals": np.array(Evil(tmp_path / "trace"), dtype=object)})
    assert cache.get(about, 1, "here") is None
    assert not (tmp_path / "trace").exists()


def test_what_ships_is_found_and_the_folder_comes_first(tmp_path):
    mine, about = Cache(tmp_path / "mine", None), {"task": "a"}
    ship([mine.put(about, found(), "here")], tmp_path / "a.zip")
    ship([tmp_path / "mine" / name for name in zipfile.ZipFile(tmp_path / "a.zip").namelist()], tmp_path / "b.zip")
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()
    cache = Cache(tmp_path / "none", tmp_path / "a.zip")
    assert cache.get(about, 6, "there").finals.shape == (6, 2)
    cache.put(about, found(FINALS[:2]), "here")
    assert len(cache.get(about, 1, "here").finals) == 2
    assert len(cache.get(about, 6, "here").finals) == 6


def test_rates():
    rates = spaces.values("learning_rate", 14)["learning_rate"]
    assert rates[0] == 1e-3 and sorted(rates) == sorted(spaces.RATES)
    np.testing.assert_allclose(np.diff(np.log10(spaces.RATES)), 0.5, atol=1e-6)
    assert set(rates[:3]) == {1e-3, spaces.RATES[5], spaces.RATES[7]}  # then its neighbours


@pytest.mark.parametrize("space", ["nadamw8p", "adam8p"])
def test_budgets_are_nested_and_columns_uniform_where_they_should_be(space):
    few, many = spaces.values(space, 10), spaces.values(space, spaces.size(space))
    for name, column in many.items():
        np.testing.assert_array_equal(few[name], column[:10])
        assert np.isfinite(column).all() and (column >= 0).all()
    # of 1,000 uniform draws: the distribution is this far from uniform once in a hundred samples
    low, high = {"nadamw8p": (1e-5, 1.0), "adam8p": (1e-8, 10.0)}[space]
    u = np.sort(np.log(many["learning_rate"] / low) / np.log(high / low))
    assert np.abs(u - (np.arange(1000) + 0.5) / 1000).max() < 1.63 / np.sqrt(1000)
    # and columns are independent: four standard errors of a correlation
    assert abs(np.corrcoef(np.log(many["learning_rate"]), np.log(many["eps"]))[0, 1]) < 4 / np.sqrt(1000)


def test_shares_of_the_nadamw_space():
    values = spaces.values("nadamw8p", 1000)
    off = {name: np.mean(values[name] == 0) for name in ("weight_decay", "l2", "warmup", "end", "nesterov")}
    expected = {"weight_decay": 1 / 3, "l2": 1 / 3, "warmup": 1 / 2, "end": 1 / 2, "nesterov": 1 / 2}
    for name, share in expected.items():  # four standard errors of a coin thrown 1,000 times
        assert abs(off[name] - share) < 4 * np.sqrt(share * (1 - share) / 1000)
    assert not np.any((values["weight_decay"] == 0) & (values["l2"] == 0))


def test_greedy_order_by_hand():
    losses = np.array([[0.0, 1.0, 0.4, 1.0], [1.0, 0.0, 0.4, 1.0], [1.0, 1.0, 0.4, 0.0]])
    # Alone trial 2 has the lowest mean; then each of the others saves 0.4 on one task, and alone 3 and 0 differ
    assert spaces.greedy_order(losses, 4) == [2, 0, 1, 3]
    losses[0, 3] = 0.9  # as good where it is not the best: nothing is saved, but alone it is better now
    assert spaces.greedy_order(losses, 4) == [2, 3, 0, 1]


def test_greedy_order_is_the_best_next_one_whatever_came_before():
    losses = np.random.default_rng(0).random((6, 20))
    order = spaces.greedy_order(losses, 20)
    assert sorted(order) == list(range(20))
    for k in range(1, 20):
        scores = [losses[:, [*order[:k], j]].min(axis=1).mean() for j in range(20)]
        assert scores[order[k]] == pytest.approx(min(scores[j] for j in range(20) if j not in order[:k]))


MLP = {"name": "image_mlp", "dataset": "wine", "hidden": [32], "batch_size": 64}


@pytest.mark.parametrize(
    ("axis", "value", "entry", "expected"),
    [
        ("horizon", 0.1, MLP, sweeps.Point(MLP, 100)),
        ("num_steps", 10.0, MLP, sweeps.Point(MLP, 1000, told=10_000)),
        ("data_size", 0.3, MLP, sweeps.Point(MLP, 1000, rows=0.3)),
        ("width", 0.25, MLP, sweeps.Point(MLP | {"hidden": [8]}, 1000)),
        ("width", 2.0, {"width": 16, "name": "v"}, sweeps.Point({"width": 32, "name": "v"}, 1000)),
        ("depth", 4, MLP, sweeps.Point(MLP | {"hidden": [32] * 4}, 1000)),
        ("depth", 1, MLP | {"hidden": [8, 8]}, sweeps.Point(MLP | {"hidden": [8]}, 1000)),
        ("depth", 8, {"layers": 1}, sweeps.Point({"layers": 8}, 1000)),
        ("batch_size", 0.125, MLP, sweeps.Point(MLP | {"batch_size": 8}, 1000)),
    ],
)
def test_sweep_points(axis, value, entry, expected):
    given = json.loads(json.dumps(entry))
    assert sweeps.point(axis, value, given, 1000) == expected and given == entry


@pytest.mark.parametrize(
    ("axis", "entry"),
    [
        ("width", MLP | {"hidden": []}),
        ("width", {"dim": 3}),
        ("depth", {"hidden": [16, 4, 16]}),
        ("batch_size", {"dim": 3}),
        ("data_size", {"dim": 3}),
    ],
)
def test_a_task_without_the_knob_says_so(axis, entry):
    with pytest.raises(sweeps.Inapplicable, match="it has no"):
        sweeps.point(axis, 2.0, entry, 10)


@pytest.mark.parametrize("axis", sweeps.AXES)
def test_axes_hold_their_base(axis):
    values, base = sweeps.AXES[axis]
    assert list(values) == sorted(values) and (base is None or base in values)
