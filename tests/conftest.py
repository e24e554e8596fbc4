"""What every test runs under: strict dtypes, NaN checks, four virtual CPU devices of one thread, quick compilation."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import jax
import pytest

from tests import draws, heavy_tests

os.environ.setdefault("KERAS_BACKEND", "jax")
# Where cores are few, operations that share XLA's pool of threads can wait for it inside of it. Two workers of pytest
# fill two cores without it.
FLAGS = ["--xla_force_host_platform_device_count=4", "--xla_cpu_multi_thread_eigen=false"]
if jax.__version_info__ < (0, 11):
    # The older of XLA's two ways to emit a fusion compiles in 0.6 of the time, and a test mostly compiles. The newest
    # JAX is tested with the way that users have; where it is not there, .ci/run repeats the instrument's tests so.
    FLAGS.append("--xla_cpu_use_fusion_emitters=false")
# What stands in the environment comes last and wins.
os.environ["XLA_FLAGS"] = " ".join([*FLAGS, os.environ.get("XLA_FLAGS", "")])

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_debug_nans", True)
draws.install()

TESTS = Path(__file__).parent
# Nearly all time of the tests is compilation, and nearly half of that is LLVM's optimization, which these programs
# are too small to repay. What users compile is what this folder is about. But XLA's older emitter with optimizations
# takes ten times as long as the newer one, so there only this file is compiled as users do.
OPTIMIZED, ALWAYS_OPTIMIZED = "instrument", "test_range.py"
TURNS = 4  # runs of --turn after which every slow test has run once
# Experiments run in seconds to minutes; in these files are the tests that do not run one.
QUICK_EXPERIMENTS = (
    "test_claims.py",
    "test_gallery.py",
    "test_html_report.py",
    "test_bands.py",
    "test_processes.py",
    "test_progress.py",
    "test_published_records.py",
    "test_roofline.py",
    "test_speed.py",
    "test_resume.py",
)
MEMORY_LIMIT = 1.2e9  # bytes of one worker above which compiled programs are dropped between files


def folder_of(path: Path) -> str:
    """Return the folder below `tests/` that a test file lies in, "" for none."""
    pieces = path.relative_to(TESTS).parts
    return pieces[0] if len(pieces) > 1 else ""


def resident_memory() -> float:
    """Return the bytes that this process holds; infinity where the system does not say."""
    statm = Path("/proc/self/statm")
    if not statm.exists():
        return float("inf")
    return int(statm.read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")


def kind_of(path: Path) -> str:
    """Return which kind of test a file holds: `house`, `contract` over a family, `cost`, else against an `oracle`."""
    if path.name == "test_cost.py":
        return "cost"
    return {"house": "house", "contracts": "contract"}.get(folder_of(path), "oracle")


def is_optimized(path: Path) -> bool:
    """Tell whether the programs of a file are compiled as users compile them."""
    older_emitter = os.environ["XLA_FLAGS"].rpartition("--xla_cpu_use_fusion_emitters=")[2].startswith("false")
    return folder_of(path) == OPTIMIZED and (path.name == ALWAYS_OPTIMIZED or not older_emitter)


def of_turn(items: Sequence[pytest.Item], turn: int) -> set[str]:
    """Return the ids of the slow tests that run in a turn: of each file one in `TURNS`, and at least one."""
    files: dict[str, list[str]] = {}
    for item in items:
        if item.get_closest_marker("slow"):
            files.setdefault(item.nodeid.partition("::")[0], []).append(item.nodeid)
    return {
        test
        for tests in files.values()
        for number, test in enumerate(tests)
        if (number - turn) % min(len(tests), TURNS) == 0
    }


def quick_cases(cases: Sequence[pytest.Item], wanted: int) -> set[str]:
    """Return the ids of `wanted` cases, the first and the last among them, the others evenly between."""
    if wanted >= len(cases):
        return {case.nodeid for case in cases}
    step = (len(cases) - 1) / max(wanted - 1, 1)
    return {cases[round(number * step)].nodeid for number in range(wanted)}


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option that measures which tests are heavy, and the one that runs a part of the slow ones."""
    parser.addoption("--measure-heavy", action="store_true", help="write tests/heavy_tests.txt anew")
    parser.addoption("--turn", type=int, help=f"of the slow tests of each file, run one in {TURNS}: those of this turn")


def pytest_configure(config: pytest.Config) -> None:
    """Measure, if asked to."""
    if config.getoption("--measure-heavy"):
        heavy_tests.refuse_parts(config)
        config.pluginmanager.register(heavy_tests.Measurement())


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark the kind of each test; as slow what runs experiments, what is heavy, of large families all but a few."""
    families: dict[str, list[pytest.Item]] = {}
    heavy = frozenset() if config.getoption("--measure-heavy") else heavy_tests.read()
    for item in items:
        if item.nodeid in heavy:
            item.add_marker(pytest.mark.slow)
        item.add_marker(kind_of(item.path))
        if folder_of(item.path) == "experiments" and item.path.name not in QUICK_EXPERIMENTS:
            item.add_marker(pytest.mark.slow)
        if item.get_closest_marker("quick_cases"):
            families.setdefault(item.nodeid.partition("[")[0], []).append(item)
    for cases in families.values():
        marker = cases[0].get_closest_marker("quick_cases")
        assert marker is not None
        chosen = quick_cases(cases, marker.args[0])
        for case in cases:
            if case.nodeid not in chosen:
                case.add_marker(pytest.mark.slow)
    if (turn := config.getoption("--turn")) is not None:
        kept = of_turn(items, turn)
        skipped = [item for item in items if item.get_closest_marker("slow") and item.nodeid not in kept]
        items[:] = [item for item in items if not item.get_closest_marker("slow") or item.nodeid in kept]
        config.hook.pytest_deselected(items=skipped)


@pytest.fixture(scope="module", autouse=True)
def compilation(request: pytest.FixtureRequest) -> Iterator[None]:
    """Compile quickly where the compiler is not what is tested; between files, drop what fills the memory."""
    jax.config.update("jax_disable_most_optimizations", not is_optimized(request.path))
    yield
    jax.config.update("jax_disable_most_optimizations", False)
    if resident_memory() > MEMORY_LIMIT:
        jax.clear_caches()
        gc.collect()
