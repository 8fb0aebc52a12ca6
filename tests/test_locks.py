"""Locks: alone or shared, waited for or not, gone with their process, and refused where the system has none."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from monstera.locks import lock, locked, unlock

HOLD = """
import sys
from pathlib import Path
from monstera.locks import locked
with locked(Path(sys.argv[1])) as mine:
    print(mine, flush=True)
    sys.stdin.read()
"""


def test_one_who_does_not_wait_is_told_that_another_process_has_it_until_that_is_killed(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.lock"
    line = [sys.executable, "-c", HOLD, str(path)]
    with subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "True\n"
        with locked(path, wait=False) as mine:
            assert not mine
        other.kill()
        with locked(path) as mine:
            assert mine


def test_a_file_is_shared_by_those_who_ask_for_that_and_by_nobody_else(tmp_path: Path) -> None:
    with (tmp_path / "a").open("a") as one, (tmp_path / "a").open("a") as two, (tmp_path / "a").open("a") as three:
        assert lock(one, shared=True)
        assert lock(two, shared=True, wait=False)
        assert not lock(three, wait=False)
        unlock(one)
        assert not lock(three, wait=False)
        unlock(two)
        assert lock(three, wait=False)
        assert not lock(one, shared=True, wait=False)


def test_what_is_in_the_file_stays(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("text")
    with locked(tmp_path / "a"):
        assert (tmp_path / "a").read_text() == "text"


def test_a_system_without_locks_is_named_by_the_one_who_needs_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "fcntl", None)
    with pytest.raises(RuntimeError, match=r"a\.lock: .*locks of Linux and macOS"), locked(tmp_path / "a.lock"):
        pass


def test_a_system_without_locks_can_import_every_search() -> None:
    code = "import sys; sys.modules['fcntl'] = None; import monstera.search, monstera.search.npas, monstera.recipe"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
