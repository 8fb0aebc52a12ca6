"""A share of `make fuzz`: changed artifacts are refused or give the right answer, and nothing worse happens."""

from __future__ import annotations

import os

import pytest

import monstera as ms
from fuzz.mutations import COMPILED, KINDS, mutant
from fuzz.run import corpus, fuzz
from fuzz.trial import Program, outcome

pytestmark = pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="limits memory by Linux's numbers")


@pytest.fixture(scope="module")
def programs() -> list[Program]:
    return corpus()


def test_every_program_is_right_as_it_is_and_built_anew(programs, tmp_path):
    path = tmp_path / "net.monstera"
    for program in programs:
        path.write_bytes(program.data)
        assert outcome(program, path, False) == outcome(program, path, True) == "right", program.name
        assert ms.load(path, rebuild=True).digest == ms.load(path).digest, program.name


def test_three_hundred_changed_artifacts_are_refused_or_right(programs, monkeypatch):
    monkeypatch.setenv("MONSTERA_CACHE", os.environ.get("MONSTERA_CACHE", ""))  # put back what `fuzz` sets
    counts, bad = fuzz(programs, 1, range(300))
    assert not bad, "\n".join(bad)
    assert counts.total() == 300
    tried = {kind for kind, _ in counts}
    assert {kind.removesuffix(", built anew") for kind in tried} == {*KINDS}
    assert any("built anew" in kind for kind in tried)
    said = {outcome for _, outcome in counts}
    assert said >= {"refused", "right"}


def test_mutants_are_the_same_for_the_same_seed_and_differ_from_the_original(programs):
    files = [p.data for p in programs]
    assert [mutant(files, 3, i) for i in range(40)] == [mutant(files, 3, i) for i in range(40)]
    assert sum(changed.data != files[which] for which, changed in (mutant(files, 3, i) for i in range(40))) > 30
    assert COMPILED.keys() <= KINDS.keys()


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        ("import ctypes; ctypes.string_at(8)", "crashes (SIGSEGV)"),
        ("import os; os.abort()", "crashes (SIGABRT)"),
        ("bytearray(1 << 36)", "MemoryError"),
        ("import resource; resource.setrlimit(resource.RLIMIT_CPU, (1, 3))\nwhile True: pass", "hangs"),
        ("raise KeyError('x')", "raised"),
        ("import os; os._exit(0)", "ended in silence"),
        ("from monstera.runtime import library; library.aligned_empty(4000)[:4000].ctypes.data", None),
        (
            "from fuzz.trial import fenced; m = fenced(64); import ctypes; ctypes.memset(m.ctypes.data, 1, 65)",
            "SIGSEGV",
        ),
    ],
)
def test_whatever_a_file_could_do_is_seen(programs, tmp_path, monkeypatch, harm, words):
    """The judge itself is judged: each harm is done in the place of a load."""
    path = tmp_path / "net.monstera"
    path.write_bytes(programs[0].data)

    def load(*_args: object, **_options: object) -> object:
        exec(harm, {})
        return load_(path)

    from fuzz import trial

    load_ = trial.ms.load
    monkeypatch.setattr(trial.ms, "load", load)
    said = outcome(programs[0], path, False)
    assert said == "right" if words is None else words in said
