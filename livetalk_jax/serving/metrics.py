"""What Prometheus is told at /metrics. `deploy/dashboard.json` shows it."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

_SECONDS = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 30.0)


class Metrics:
    """One registry a server, so that tests and replicas in one process are apart."""

    def __init__(self):
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)

        def histogram(name: str, what: str, *labels: str) -> Histogram:
            return Histogram(f"livetalk_{name}", what, labels, buckets=_SECONDS, registry=registry)

        def counter(name: str, what: str, *labels: str) -> Counter:
            return Counter(f"livetalk_{name}", what, labels, registry=registry)

        def gauge(name: str, what: str, *labels: str) -> Gauge:
            return Gauge(f"livetalk_{name}", what, labels, registry=registry)

        self.first_frame = histogram("time_to_first_frame_seconds", "From a session's admission to its first generated frame.")
        self.speech_delay = histogram("speech_to_frame_seconds", "From the first sample of a segment to the first frame of it.")
        self.chunk = histogram(
            "chunk_seconds",
            "A chunk: wait for the model, start, rewind, step, its first_frames; encode is of one batch.",
            "stage",
        )
        self.interrupt = histogram("interrupt_to_silence_seconds", "From an interruption to the first silent tick.")
        self.tick_delay = histogram("tick_delay_seconds", "How late the pacing loop woke up.")
        self.realtime_factor = gauge("realtime_factor", "Seconds of video a second of computing, of the last chunk.")
        self.capacity = gauge("capacity_sessions", "Sessions that are admitted at most.")
        self.ready = gauge("ready", "1 when sessions are admitted.")
        self.active = gauge("sessions_active", "Sessions that are open.")
        self.queue = gauge("frames_ready", "Frames of all sessions that wait to be shown.")
        self.skew = gauge(
            "av_skew_seconds",
            "Sound against picture in the last fragment sent over a WebSocket, by their time stamps; over WebRTC they have the same.",
        )
        self.sessions = counter("sessions", "Sessions that ended, by how.", "reason")
        self.refused = counter("refused", "Requests that were refused, by error code.", "code")
        self.failed = counter("model_failures", "Steps of the model that raised.")
        self.frames = counter("frames", "Frames shown.")
        self.late = counter(
            "frames_late", "Ticks without a new frame: the model was late, or an interruption threw the next ones away.", "cause"
        )
        self.underruns = counter("audio_underruns", "Late ticks in the middle of speech.")
        self.dropped = counter("ticks_dropped", "Ticks that a reader was too slow for.", "transport")
        self.discarded = counter("chunks_discarded", "Chunks made in vain because of an interruption.")
        self.interrupts = counter("interrupts", "Interruptions.")
        self.jobs = counter("jobs", "Jobs that ended, by how.", "state")

    def text(self) -> bytes:
        return generate_latest(self.registry)
