"""The studies of searches are optuna's: its dashboard shows them."""

from __future__ import annotations

import json
import threading
import urllib.request
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, make_server

import pytest

pytest.importorskip("optuna")
dashboard = pytest.importorskip("optuna_dashboard")

from monstera.search.mapping import search_plan  # noqa: E402
from monstera.search.studies import storage_url  # noqa: E402
from monstera.search.study_at import StudyAt  # noqa: E402
from search.judges import ASKED, COSTS, MODEL, SPACE, quick  # noqa: E402


class Silent(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Say nothing."""


@pytest.fixture
def shown(tmp_path):
    """A finished search, and the address where the dashboard serves its storage."""
    path = str(tmp_path / "studies.db")
    asked = {"space": SPACE, "sampler": "random", "trials": 3, "study": StudyAt(path, "shown")}
    result = search_plan(MODEL, COSTS, quick, ASKED, **asked)
    server = make_server("127.0.0.1", 0, dashboard.wsgi(storage_url(path)), handler_class=Silent)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield result, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def get(address: str) -> Any:
    with urllib.request.urlopen(address, timeout=30) as answer:
        return json.load(answer)


def test_the_dashboard_shows_the_study_with_its_plans_rewards_accuracies_and_times(shown):
    result, address = shown
    (study,) = get(f"{address}/api/studies")["study_summaries"]
    assert study["study_name"] == "shown"
    trials = get(f"{address}/api/studies/{study['study_id']}")["trials"]
    assert [trial["values"] for trial in trials] == [[tried.reward] for tried in result.trials]
    params = [{one["name"]: one["param_external_value"] for one in trial["params"]} for trial in trials]
    assert [SPACE.plan(SPACE.point_of(some)) for some in params] == [tried.plan for tried in result.trials]
    noted = [{one["key"]: float(one["value"]) for one in trial["user_attrs"]} for trial in trials]
    assert [(some["accuracy"], some["ms"]) for some in noted] == [(t.accuracy, t.ms) for t in result.trials]
