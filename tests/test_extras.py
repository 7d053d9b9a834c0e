"""Optional dependencies: one that is missing and one that is broken are two errors, each with the advice that helps."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from avsync._checks import import_extra
from avsync.errors import AvsyncError, BrokenExtraError, ExtraError, MissingExtraError


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in [name for name in sys.modules if name.split(".")[0] == "some_extra"]:
        monkeypatch.delitem(sys.modules, name)
    return tmp_path


def write(folder: Path, text: str) -> None:
    (folder / "some_extra").mkdir()
    (folder / "some_extra" / "__init__.py").write_text(text)


def test_both_are_import_errors_of_avsync() -> None:
    for kind in (MissingExtraError, BrokenExtraError):
        assert issubclass(kind, ExtraError) and issubclass(kind, AvsyncError) and issubclass(kind, ImportError)
    assert not issubclass(BrokenExtraError, MissingExtraError)


def test_missing() -> None:
    with pytest.raises(
        MissingExtraError, match=r"^`no_such_extra` is needed here and is not installed.*: pip install 'avsync\[plot\]'$"
    ):
        import_extra("no_such_extra.part", "plot")
    with pytest.raises(MissingExtraError, match=r"not installed; install it with: pip install --no-deps other==1$"):
        import_extra("no_such_extra", "", install="pip install --no-deps other==1")


@pytest.mark.parametrize(
    ("text", "advice"),
    [
        ("import a_dependency_that_is_not_there", r"No module named 'a_dependency.*pip check.*pip install 'avsync\[plot\]'"),
        ("raise ImportError('numpy.core.multiarray failed to import')", r"built for NumPy 1: pip install 'numpy<2'"),
        ("raise AttributeError('_ARRAY_API not found')", r"AttributeError.*built for NumPy 1"),
        (
            "raise TypeError('Descriptors cannot be created directly.\\nmore')",
            r"protobuf.*pip install 'avsync\[train\]' mediapipe==",
        ),
        ("from google.protobuf_of_old import runtime_version", r"protobuf; install both in one command"),
        (
            "raise ImportError('libGL.so.1: cannot open shared object file: No such file or directory')",
            r"the system library libGL\.so\.1 is missing",
        ),
        ("raise RuntimeError", "RuntimeError"),
    ],
)
def test_broken(packages: Path, text: str, advice: str) -> None:
    write(packages, text)
    with pytest.raises(BrokenExtraError, match=f"^`some_extra` is installed but cannot be imported .*{advice}") as caught:
        import_extra("some_extra", "plot")
    assert "\n" not in str(caught.value) and caught.value.__cause__ is not None


def test_a_part_of_an_installed_package_that_lacks_is_broken(packages: Path) -> None:
    write(packages, "")
    with pytest.raises(BrokenExtraError, match=r"No module named .some_extra\.part"):
        import_extra("some_extra.part", "plot")


def test_the_package_that_an_extra_installs_may_have_another_name(packages: Path) -> None:
    write(packages, "import no_such_extra")
    with pytest.raises(MissingExtraError, match=r"`no_such_extra` .*avsync\[train\]"):
        import_extra("some_extra", "train", package="no_such_extra")
