"""How often somebody may do something."""

from collections import OrderedDict


class Bucket:
    """`burst` at once, then `rate` a second."""

    def __init__(self, rate: float, burst: float):
        self._rate, self._burst = rate, burst
        self._left, self._at = burst, 0.0

    def has(self, now: float) -> bool:
        """Whether once more would be within the limit."""
        self._left = min(self._burst, self._left + self._rate * (now - self._at))
        self._at = now
        return self._left >= 1

    def take(self, now: float) -> bool:
        """Whether once more is within the limit."""
        if not self.has(now):
            return False
        self._left -= 1
        return True


class Buckets:
    """One bucket a caller, the last few thousand callers."""

    def __init__(self, rate: float, burst: float, callers: int = 4096):
        self._rate, self._burst, self._callers = rate, burst, callers
        self._buckets: OrderedDict[str, Bucket] = OrderedDict()

    def has(self, caller: str, now: float) -> bool:
        bucket = self._buckets.get(caller)
        return bucket is None or bucket.has(now)

    def take(self, caller: str, now: float) -> bool:
        bucket = self._buckets.pop(caller, None) or Bucket(self._rate, self._burst)
        self._buckets[caller] = bucket
        if len(self._buckets) > self._callers:
            self._buckets.popitem(last=False)
        return bucket.take(now)
