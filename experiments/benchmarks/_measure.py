"""What the benchmarks share: clocks, memory, compile counts, and interleaved timing in one process."""

import os
import resource
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

IMPORTED = time.perf_counter()


def process_age() -> float:
    """Seconds since this process started; since this module was imported where the system does not tell."""
    try:
        ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
        return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, AttributeError):
        return time.perf_counter() - IMPORTED


def peak_rss_mb() -> float:
    """Most memory this process has held so far, in units of 10^6 bytes."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def compilation_cache(cache: str) -> None:
    """Chooses the folder of compiled programs, or `off`. Must run before jax is imported."""
    if cache == "off":
        os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "false"
    else:
        os.environ["JAX_COMPILATION_CACHE_DIR"] = str(Path(cache).absolute())


def count_compiles() -> Counter[str]:
    """A counter, kept up to date from now on, of `compiled` (traces and compilations) and `cache_hits`."""
    import jax.monitoring

    counts: Counter[str] = Counter(compiled=0, cache_hits=0)

    def on_duration(event: str, seconds: float, **_: Any) -> None:
        counts["compiled"] += event.startswith("/jax/core/compile/")

    def on_event(event: str, **_: Any) -> None:
        counts["cache_hits"] += event == "/jax/compilation_cache/cache_hits"

    jax.monitoring.register_event_duration_secs_listener(on_duration)
    jax.monitoring.register_event_listener(on_event)
    return counts


def interleaved(runs: Sequence[Callable[[], None]], repeats: int) -> list[np.ndarray]:
    """Seconds of each run, [repeats] each. They take turns, so that whatever else the machine does meets them all."""
    seconds = np.zeros((len(runs), repeats))
    for i in range(repeats):
        for j, run in enumerate(runs):
            start = time.perf_counter()
            run()
            seconds[j, i] = time.perf_counter() - start
    return list(seconds)


def machine() -> dict[str, Any]:
    """The threads and devices that JAX has here, and the versions that matter."""
    import jax

    from metaopt import record, runtime

    devices = jax.devices()
    return {
        "threads": int(os.environ.get("NPROC") or runtime.cores()),
        "devices": len(devices),
        "device": devices[0].device_kind,
        "versions": record.environment()["versions"],
    }


def rounded(value: Any) -> Any:
    """Floats to five significant digits."""
    return float(f"{value:.5g}") if isinstance(value, float) else value
