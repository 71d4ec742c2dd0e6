"""The HTTP API against its own description: schemathesis makes requests that fit it and requests that do not."""

import asyncio
import io

import httpx2
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from PIL import Image
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import content_type_conformance, response_schema_conformance, status_code_conformance

from livetalk_jax.serving import edges
from livetalk_jax.serving.app import Server, create_app
from livetalk_jax.serving.engine import Engine, Limits
from livetalk_jax.serving.metrics import Metrics
from livetalk_jax.serving.tokens import Guard
from livetalk_jax.serving.uploads import UploadLimits
from tests.serving.card import SIZE, TestCard
from tests.serving.conftest import running
from tests.serving.test_http import bearer, wav

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


QUICK = settings(
    max_examples=8, deadline=None, derandomize=True, database=None, phases=(Phase.explicit, Phase.generate),
    suppress_health_check=list(HealthCheck),
)  # fmt: skip


def ask_all(operation, mode, url):
    @QUICK
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


# Of things that are there: what is behind the look-up of an id and of a credential

KEY = "the-key"
FAILS = 255  # shade of a portrait


def picture(shade, frames=1):
    file = io.BytesIO()
    Image.new("RGB", (SIZE[1], frames * SIZE[0]), (shade,) * 3).save(file, "PNG")
    return file.getvalue()


class Visitor:
    """Somebody with a token of a server that asks for one, and an operator with the key."""

    def __init__(self, http):
        self._http = http
        self.token = self.mint()

    def _posted(self, path, credential, **content):
        answer = self._http.post(path, headers=bearer(credential), **content)
        assert answer.is_success, answer.text
        return answer.json()

    def mint(self):
        return self._posted("/v1/tokens", KEY)["token"]

    def session_id(self, kind):
        """One that nobody has read yet, carried on from another or not."""
        motion = {"motion": picture(0, frames=5)} if kind else {}
        return self._posted("/v1/sessions", self.token, files={"portrait": picture(0), **motion})["id"]

    def job_id(self, kind):
        """One just begun, one that is done, or one that failed."""
        files = {"audio": wav(0.1), "portrait": picture(FAILS if kind == 2 else 0)}
        job = self._posted("/v1/jobs", self.token, files=files)["id"]
        if kind:
            self._http.get(f"/v1/jobs/{job}/events", headers=bearer(self.token))
        return job


@pytest.fixture(scope="module")
def visitor():
    with pytest.MonkeyPatch.context() as patch:

        async def join(live, url, token):
            return asyncio.sleep(0)

        patch.setattr(edges.livekit, "join", join)
        card = TestCard()
        card.fail_on = FAILS
        with (
            running(card, Limits(sessions=1_000_000), guard=Guard([KEY]), requests_per_second=1e6) as (url, _),
            httpx2.Client(base_url=url, timeout=60) as http,
        ):
            yield Visitor(http)


IDS = [operation for operation in OPERATIONS if "_id}" in operation.path]
OPERATORS = ("GET /metrics", "POST /v1/tokens", "POST /v1/sessions/{session_id}/livekit")
TOKENS = [operation for operation in OPERATIONS if operation.label in ("GET /metrics", "POST /v1/tokens", "POST /v1/tokens/renew")]


@pytest.mark.parametrize("operation", IDS + TOKENS, ids=[operation.label for operation in IDS + TOKENS])
def test_what_is_there(operation, visitor):
    positive = operation.as_strategy(GenerationMode.POSITIVE)
    statuses = set()
    cases = positive | operation.as_strategy(GenerationMode.NEGATIVE) if operation.body else positive

    @settings(QUICK, max_examples=6)
    @given(case=cases, kind=st.sampled_from([0, 1, 2]), whose=st.sampled_from(["mine", "mine", "another's"]))
    def ask(case, kind, whose):
        mine = whose == "mine" or operation in TOKENS
        name = next(iter(case.path_parameters), None)
        if name:
            case.path_parameters[name] = getattr(visitor, name)(kind)
        credential = KEY if operation.label in OPERATORS else visitor.token if mine else visitor.mint()
        case.headers = bearer(credential)
        answer = case.call(base_url=str(visitor._http.base_url), timeout=60)
        case.validate_response(answer, checks=CHECKS)
        statuses.add(answer.status_code)
        hidden = not mine and operation.label not in OPERATORS
        assert (answer.status_code == 404) == hidden or (answer.status_code in (400, 422) and operation.body), answer.text
        assert answer.status_code not in (401, 403)

    ask()
    # No sdp that is made up is an offer.
    assert min(statuses) < 300 or operation.label == "POST /v1/sessions/{session_id}/webrtc"
