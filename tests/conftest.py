"""Settings of the whole suite, made before JAX starts: two CPU devices, strict shapes, one thread a worker."""

import os

# Two xdist workers share the machine: XLA's intra-op threads would only make them wait for each other.
os.environ.setdefault("NPROC", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import jax  # noqa: E402  (the environment above must be set first)
import pytest  # noqa: E402

jax.config.update("jax_num_cpu_devices", 2)
jax.config.update("jax_numpy_rank_promotion", "raise")


def pytest_configure(config: pytest.Config) -> None:
    """Keeps compiled programs between runs of the suite; `pytest --cache-clear` starts cold."""
    if config.cache is not None:
        jax.config.update("jax_compilation_cache_dir", str(config.cache.mkdir("jax")))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)


@pytest.fixture
def x64():
    """Double precision for the test that asks for it, where a closed form is compared."""
    with jax.enable_x64(True):
        yield
