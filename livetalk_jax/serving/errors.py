"""Everything that a client is told when something is refused or fails: one code, one line, and whether to try again."""

from typing import NamedTuple


class Code(NamedTuple):
    """`status` is of HTTP; `retryable`: the same request may work later, here or at another replica."""

    status: int
    retryable: bool = False


CODES = {
    "bad_request": Code(400),
    "unauthorized": Code(401),
    "forbidden": Code(403),
    "not_found": Code(404),
    "too_slow": Code(408, True),
    "not_ready": Code(409, True),
    "too_large": Code(413),
    "unsupported_media": Code(415),
    "unprocessable": Code(422),
    "rate_limited": Code(429, True),
    "model_failed": Code(500, True),
    "internal": Code(500),
    "at_capacity": Code(503, True),
    "warming_up": Code(503, True),
    "draining": Code(503, True),
    # Of streams.
    "bad_message": Code(400),
    "audio_overflow": Code(413, True),
    "closed": Code(410),
}


class ServingError(Exception):
    """Raise it anywhere: HTTP answers with its status, a stream with an `error` message."""

    def __init__(self, code: str, message: str, retry_after: int | None = None):
        super().__init__(message)
        self.code, self.message, self.retry_after = code, message, retry_after
        self.status, self.retryable = CODES[code]

    def body(self) -> dict:
        return {"code": self.code, "message": self.message, "retryable": self.retryable}
