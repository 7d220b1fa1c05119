"""/metrics: the engine's statistics in Prometheus' text format."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from quire.observability.stats import EngineStats

GAUGES = {
    "num_running": ("quire_num_requests_running", "sequences that hold KV blocks and run"),
    "num_waiting": ("quire_num_requests_waiting", "sequences that wait for room"),
    "num_blocks": ("quire_kv_blocks_total", "KV blocks of all pools"),
    "num_used_blocks": ("quire_kv_blocks_used", "KV blocks referenced by a sequence"),
    "num_cached_blocks": ("quire_kv_blocks_cached", "KV blocks that a prefix hit can find"),
    "kv_usage": ("quire_kv_cache_usage", "used share of the KV blocks, 0 to 1"),
    "kv_waste": ("quire_kv_cache_waste", "share of the used blocks' slots that hold no token, 0 to 1"),
}
COUNTERS = {
    "steps": ("quire_steps", "engine steps"),
    "prompt_tokens": ("quire_prompt_tokens", "prompt tokens computed or found in the prefix cache"),
    "generated_tokens": ("quire_generation_tokens", "generated tokens"),
    "prefix_query_tokens": ("quire_prefix_cache_queries", "tokens looked up in the prefix cache"),
    "prefix_hit_tokens": ("quire_prefix_cache_hits", "tokens found in the prefix cache"),
    "preemptions": ("quire_num_preemptions", "sequences that lost their blocks and started over"),
    "requests_finished": ("quire_requests_finished", "requests that ended for any reason"),
    "failed_steps": ("quire_failed_steps", "steps the device could not do"),
}


class ServerMetrics:
    """Renders one engine's statistics with the served model's name as label."""

    def __init__(self, model_name: str) -> None:
        self._model_name = model_name
        self.num_answers: Counter[int] = Counter()
        """HTTP status -> answers with it; 0 = a client that left before."""

    def render(self, stats: EngineStats | None, *, is_up: bool, num_restarts: int) -> str:
        """The text of /metrics; without statistics, only what the server knows by itself."""
        registry = CollectorRegistry()
        registry.register(_ServerFacts(self.num_answers, self._model_name, is_up=is_up, num_restarts=num_restarts))
        if stats is not None:
            registry.register(_Snapshot(stats, self._model_name))
        return generate_latest(registry).decode()


class _ServerFacts(Collector):
    def __init__(self, num_answers: Mapping[int, int], model_name: str, *, is_up: bool, num_restarts: int) -> None:
        self._num_answers, self._model_name, self._is_up, self._num_restarts = (
            num_answers,
            model_name,
            is_up,
            num_restarts,
        )

    def collect(self) -> Iterable[Metric]:
        up = GaugeMetricFamily("quire_engine_up", "1 while the engine is healthy, else 0", labels=["model_name"])
        up.add_metric([self._model_name], float(self._is_up))
        yield up
        restarts = CounterMetricFamily(
            "quire_engine_restarts", "engine processes that took the place of another", labels=["model_name"]
        )
        restarts.add_metric([self._model_name], self._num_restarts)
        yield restarts
        answers = CounterMetricFamily(
            "quire_http_responses",
            "answered requests; status 0 = the client left before",
            labels=["model_name", "status"],
        )
        for status, count in sorted(self._num_answers.items()):
            answers.add_metric([self._model_name, str(status)], count)
        yield answers


class _Snapshot(Collector):
    def __init__(self, stats: EngineStats, model_name: str) -> None:
        self._stats, self._model_name = stats, model_name

    def collect(self) -> Iterable[Metric]:
        for field, (name, text) in GAUGES.items():
            gauge = GaugeMetricFamily(name, text, labels=["model_name"])
            gauge.add_metric([self._model_name], getattr(self._stats, field))
            yield gauge
        free = GaugeMetricFamily(
            "quire_kv_blocks_free", "KV blocks that can be taken, cached ones included", labels=["model_name"]
        )
        free.add_metric([self._model_name], self._stats.num_blocks - self._stats.num_used_blocks)
        yield free
        for field, (name, text) in COUNTERS.items():
            counter = CounterMetricFamily(name, text, labels=["model_name"])
            counter.add_metric([self._model_name], getattr(self._stats, field))
            yield counter
