"""The HTTP API against its own description: schemathesis makes requests that fit it and requests that do not."""

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import content_type_conformance, response_schema_conformance, status_code_conformance

from livetalk_jax.serving.app import Server, create_app
from livetalk_jax.serving.engine import Engine, Limits
from livetalk_jax.serving.metrics import Metrics
from livetalk_jax.serving.uploads import UploadLimits
from tests.serving.card import TestCard
from tests.serving.conftest import running

CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
SCHEMA = schemathesis.openapi.from_dict(create_app(Server(engine=Engine(TestCard, Limits(), Metrics()))).openapi())
OPERATIONS = [result.ok() for result in SCHEMA.get_all_operations()]


@pytest.fixture(scope="module")
def server(card):
    with running(card, Limits(sessions=1_000_000), uploads=UploadLimits(body_bytes=200_000), requests_per_second=1e6) as found:
        yield found


def test_everything_is_described():
    assert {operation.label for operation in OPERATIONS} >= {
        "GET /healthz", "GET /readyz", "GET /metrics", "GET /v1/capacity", "POST /v1/tokens", "POST /v1/sessions", "POST /v1/jobs",
        "DELETE /v1/sessions/{session_id}", "GET /v1/jobs/{job_id}/events", "DELETE /v1/jobs/{job_id}",
    }  # fmt: skip


def ask_all(operation, mode, url):
    @settings(
        max_examples=8, deadline=None, derandomize=True, database=None, phases=(Phase.explicit, Phase.generate),
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(case=operation.as_strategy(mode))
    def ask(case):
        case.validate_response(case.call(base_url=url, timeout=60), checks=CHECKS)

    ask()


@pytest.mark.parametrize("operation", OPERATIONS, ids=[operation.label for operation in OPERATIONS])
def test_requests_that_fit(operation, url):
    ask_all(operation, GenerationMode.POSITIVE, url)


BODIES = [operation for operation in OPERATIONS if operation.body]


@pytest.mark.parametrize("operation", BODIES, ids=[operation.label for operation in BODIES])
def test_requests_that_do_not_fit(operation, url):
    ask_all(operation, GenerationMode.NEGATIVE, url)
