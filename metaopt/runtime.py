"""What is chosen outside a program: host devices and the compilation cache before JAX starts, and XLA's effort."""

import os
from functools import cache
from pathlib import Path
from typing import Any


def cores() -> int:
    """The cores this process may use: its affinity, and no more than a container's quota."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return count if quota == "max" else max(1, min(count, int(quota) // int(period)))
    except (OSError, ValueError):
        return count


def setup() -> None:
    """One host device per core, of one thread (on a CPU that is faster than one device of many threads, and than
    several of several), and a persistent cache.

    Must run before the first use of a device; what the user chose through JAX_NUM_CPU_DEVICES, XLA_FLAGS, NPROC or
    JAX_COMPILATION_CACHE_DIR stays. JAX_PLATFORMS is honoured by JAX itself; host devices are idle on a GPU.
    """
    import jax

    chosen = "JAX_NUM_CPU_DEVICES" in os.environ or "host_platform_device_count" in os.environ.get("XLA_FLAGS", "")
    if not chosen:
        jax.config.update("jax_num_cpu_devices", cores())
        os.environ.setdefault("NPROC", "1")
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        jax.config.update("jax_compilation_cache_dir", str(Path.home() / ".cache" / "metaopt" / "jax"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)


@cache
def effort(level: int) -> dict[str, Any] | None:
    """XLA's effort on a CPU, of the options that its version knows; None elsewhere.

    Level 1 compiles in four fifths of the time, and what it makes is as fast; with vectors as wide as the CPU has them,
    where XLA's choice is half. Level 0 is for what runs once, and does without the newer code generator, whose programs
    are up to twice as fast but take as much longer to compile.
    """
    import jax

    options: dict[str, Any] = {"xla_backend_optimization_level": level}
    if level == 0:
        options["xla_cpu_use_fusion_emitters"] = False
    else:
        options["xla_cpu_prefer_vector_width"] = 512
    known = {}
    for name, value in options.items() if jax.default_backend() == "cpu" else ():
        try:
            jax.jit(lambda x: x, compiler_options={name: value})(0)
        except jax.errors.JaxRuntimeError:
            continue
        known[name] = value
    return known or None
