"""The client's conversations: carried on where a model failed, given up where nobody takes them. Replicas: test_replicas.py."""

import asyncio
import contextlib
import io

import numpy as np
import pytest
from PIL import Image

from livetalk_jax.serving.client import Client, Refused
from livetalk_jax.serving.conversation import Conversation
from livetalk_jax.serving.engine import Limits
from tests.serving.card import SIZE, TestCard
from tests.serving.conftest import running

SHADE = 9


def portrait():
    file = io.BytesIO()
    Image.fromarray(np.full((*SIZE, 3), SHADE, np.uint8)).save(file, "PNG")
    return file.getvalue()


def test_a_model_that_fails():
    card = TestCard(0.01)

    async def talk(url):
        seen, lost, closing = [], None, False
        async with Client(url) as client, asyncio.timeout(120):
            conversation = Conversation(client, portrait())
            async for message in conversation:
                seen.append(message.fields.get("reason", message.type))
                if message.type == "media" and lost is None and conversation.stream.covered:
                    lost = conversation.session
                    card.fail_on = SHADE
                elif message.type == "closed":
                    card.fail_on = None
                    if message.fields["reason"] == "client":
                        break
                elif message.type == "media" and lost != conversation.session and conversation.stream.covered and not closing:
                    closing = True
                    await conversation.control("close")
        return seen

    with running(card, Limits(sessions=1)) as (url, _):
        seen = asyncio.run(talk(url))
    assert [what for what in seen if what in ("session", "model_failed", "client")] == [
        "session",
        "model_failed",
        "session",
        "client",
    ]
    frames, dropped = card.rewinds[-1]
    assert frames.any() and dropped == 0


def test_a_stream_that_is_opened_too_often():
    """The session is kept, and its stream opened later."""

    async def talk(url, server):
        async with Client(url) as client, asyncio.timeout(120):
            conversation = Conversation(client)
            async with contextlib.aclosing(aiter(conversation)) as messages:
                assert (await anext(messages)).type == "session"
                assert list(server.engine.sessions) == [conversation.session]

    with running(TestCard(0.01), requests_per_second=2) as (url, server):
        server.buckets._burst = 1
        asyncio.run(talk(url, server))
        refused = server.engine.metrics.registry.get_sample_value("livetalk_refused_total", {"code": "rate_limited"})
    assert refused is None  # no other was asked for


def test_what_cannot_be_had():
    async def refusal(url, **options):
        async with Client(url) as client:
            with pytest.raises((Refused, ConnectionError)) as refused:
                async for _ in Conversation(client, patience=0, **options):
                    pass
        return refused.value

    with running(TestCard(), Limits(sessions=1)) as (url, server):
        assert asyncio.run(refusal(url, portrait=b"no picture")).code == "unsupported_media"
        server.engine.capacity = 0
        assert asyncio.run(refusal(url)).code == "at_capacity"
    assert isinstance(asyncio.run(refusal(url)), ConnectionError)
