"""What a folder says about its run or its evaluation, missing pieces included; all that a report is made of."""

import json
from pathlib import Path
from typing import Any, NamedTuple


class Artefacts(NamedTuple):
    """The files of a folder, empty where the run has not come so far, or where there was none."""

    folder: Path
    config: str | None  # YAML; None: the folder of an evaluation alone
    environment: list[dict[str, Any]]  # one per start of the run
    metrics: list[dict[str, Any]]  # one per outer step
    summary: dict[str, Any]
    results: dict[str, Any]  # of an evaluation

    def families(self) -> list[str]:
        """Names of the task families, from the metrics `FAMILY/meta_loss`."""
        keys = dict.fromkeys(key for row in self.metrics[:1] for key in row)
        return [key.removesuffix("/meta_loss") for key in keys if key.endswith("/meta_loss")]

    def series(self, key: str) -> tuple[list[int], list[float | None]]:
        """(outer steps, values) of the rows that have this metric."""
        rows = [row for row in self.metrics if key in row]
        return [row["outer_step"] for row in rows], [row[key] for row in rows]


def read(folder: Path) -> Artefacts:
    """Raises FileNotFoundError when the folder holds neither a run nor an evaluation."""
    config, results = folder / "config.yaml", folder / "results.json"
    if not config.exists() and not results.exists():
        raise FileNotFoundError(
            f"{folder} holds no run and no evaluation: neither config.yaml nor results.json is there"
        )
    environment = _json(folder / "environment.json", [])
    path = folder / "metrics.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return Artefacts(
        folder=folder,
        config=config.read_text(encoding="utf-8") if config.exists() else None,
        environment=environment if isinstance(environment, list) else [environment],
        metrics=[json.loads(line) for line in lines],
        summary=_json(folder / "summary.json", {}),
        results=_json(results, {}),
    )


def _json(path: Path, default: Any) -> Any:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else default


def binned(x: list[int], y: list[float | None], bins: int = 150) -> dict[str, list]:
    """Mean, lowest and highest value of at most `bins` equal stretches of a noisy curve; None where there is none."""
    width = -(-len(x) // bins) or 1
    out: dict[str, list] = {"x": [], "y": [], "low": [], "high": []}
    for i in range(0, len(x), width):
        values = [v for v in y[i : i + width] if v is not None]
        out["x"].append(x[min(i + width, len(x)) - 1])
        out["y"].append(sum(values) / len(values) if values else None)
        out["low"].append(min(values, default=None))
        out["high"].append(max(values, default=None))
    return out
