"""The graph executor on a hand-built model with the reference library and with broken or poorer ones."""

from __future__ import annotations

from dataclasses import replace
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from quire.device import BackendError, GraphExecutor, InternalError, KVPlan
from quire.device.contract import ExecutorPlan, Kernel
from quire.graph.ir import Graph, Node
from quire.reference.device import ReferenceLibrary
from quire.sampling.batch import NOT_FINITE

PROMPT = [3, 14, 15, 9, 26, 5, 35, 8, 9, 7, 9, 32, 38, 4, 6, 26, 43]
TABLES = {"full": [3, 1, 4, 7, 8], "sliding": [9, 2, 6, 5, 10]}


def _line(tiny: ModuleType, tokens: list[int] = PROMPT, tables: dict[str, list[int]] = TABLES) -> Any:
    return tiny.Line(list(tokens), tables)


def _run(tiny: ModuleType, chunks: list[int], **changes: Any) -> np.ndarray:
    driver, line = tiny.reference_driver(tiny.make_plan(**changes)), _line(tiny)
    for chunk in chunks:
        driver.step([(line, chunk)])
    return driver.logits_of(line)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_prefill_chunks_and_decode_give_the_same_bits(tiny: ModuleType, dtype: str) -> None:
    changes = {"act_dtype": dtype, "weight_dtype": dtype, "kv_dtype": dtype}
    whole = _run(tiny, [17], **changes)
    assert whole.shape == (17, tiny.VOCAB)
    assert whole.dtype == np.float32
    np.testing.assert_array_equal(_run(tiny, [1] * 17, **changes), whole)
    np.testing.assert_array_equal(_run(tiny, [5, 1, 7, 4], **changes), whole)


def test_a_batch_gives_each_sequence_what_it_gets_alone(tiny: ModuleType) -> None:
    driver, first = tiny.reference_driver(), _line(tiny)
    second = _line(tiny, PROMPT[::-1], {"full": [0, 11, 12], "sliding": [13, 14, 15]})
    driver.step([(first, 9)])
    driver.step([(second, 5), (first, 1)])
    driver.step([(first, 4), (second, 6)])
    np.testing.assert_array_equal(driver.logits_of(first), _run(tiny, [17])[:14])
    alone = tiny.reference_driver()
    third = _line(tiny, PROMPT[::-1])
    alone.step([(third, 11)])
    np.testing.assert_array_equal(driver.logits_of(second), alone.logits_of(third))


def test_the_logits_head_runs_in_slices_of_max_logits_rows(tiny: ModuleType) -> None:
    np.testing.assert_array_equal(_run(tiny, [17], max_logits_rows=1), _run(tiny, [17], max_logits_rows=100))


def test_freed_pages_poisoned_with_nan_stay_invisible(tiny: ModuleType) -> None:
    """Blocks that left the window are -1 and full of NaN, as are all the blocks that nobody owns."""
    driver, line = tiny.reference_driver(), _line(tiny)
    driver.step([(line, 14)])
    poison = {name: np.full((1, 1, tiny.BLOCK, tiny.KV_HEADS, tiny.HEAD_DIM), np.nan, np.float32) for name in "kv"}
    for position in (0, 1):  # token 14 sees 10..14 in a window of 5
        driver.executor.write_blocks("sliding", np.array([line.tables["sliding"][position]]), poison)
        line.tables = {**line.tables, "sliding": [-1] * (position + 1) + line.tables["sliding"][position + 1 :]}
    driver.executor.write_blocks("sliding", np.array([19]), poison)  # where an index of -1 would lead
    driver.step([(line, 3)])
    np.testing.assert_array_equal(driver.logits_of(line), _run(tiny, [17]))


def test_poison_in_a_visible_page_is_seen(tiny: ModuleType) -> None:
    driver, line = tiny.reference_driver(), _line(tiny)
    driver.step([(line, 14)])
    poison = {name: np.full((1, 1, tiny.BLOCK, tiny.KV_HEADS, tiny.HEAD_DIM), np.nan, np.float32) for name in "kv"}
    driver.executor.write_blocks("full", np.array([TABLES["full"][0]]), poison)
    assert driver.executor.submit(driver.batch([(line, 3)])).result().tokens[0, 0] == NOT_FINITE


def test_positions_of_the_batch_are_for_encodings_only(tiny: ModuleType) -> None:
    """Rotary knows distances only: shifted positions give the same logits, stretched ones do not."""

    def logits(positions: np.ndarray | None) -> np.ndarray:
        driver, line = tiny.reference_driver(), _line(tiny)
        driver.step([(line, 12)], positions=positions)
        return driver.logits_of(line)

    index = np.arange(12, dtype=np.int32)
    np.testing.assert_array_equal(logits(index), logits(None))
    np.testing.assert_allclose(logits(index + 20), logits(None), atol=1e-4)
    assert np.abs(logits(index * 3) - logits(None)).max() > 1e-2


def test_block_copies_happen_first(tiny: ModuleType) -> None:
    """A fork: the second line continues from copies of the first one's blocks, written over afterwards."""
    driver, line = tiny.reference_driver(), _line(tiny)
    driver.step([(line, 10)])
    fork = _line(tiny, PROMPT, {"full": [11, 12, 13, 14, 15], "sliding": [16, 17, 18, 19, 0]})
    fork.num_computed = 10
    copies = {
        group: np.array(list(zip(TABLES[group][:3], fork.tables[group][:3], strict=True)), np.int32) for group in TABLES
    }
    driver.step([(fork, 7)], copies=copies)
    np.testing.assert_array_equal(driver.logits_of(fork), _run(tiny, [17])[10:])


def test_read_and_write_blocks_move_a_sequence(tiny: ModuleType) -> None:
    source, line = tiny.reference_driver(), _line(tiny)
    source.step([(line, 12)])
    target = tiny.reference_driver()
    moved = _line(tiny, PROMPT, {"full": [0, 2, 5, 6, 9], "sliding": [1, 3, 4, 7, 8]})
    moved.num_computed = 12
    for group in TABLES:
        pages = source.executor.read_blocks(group, np.array(TABLES[group][:3]))
        assert pages["k"].shape == (3, 1, tiny.BLOCK, tiny.KV_HEADS, tiny.HEAD_DIM)
        target.executor.write_blocks(group, np.array(moved.tables[group][:3]), pages)
    target.step([(moved, 5)])
    np.testing.assert_array_equal(target.logits_of(moved), _run(tiny, [17])[12:])


def _greedy_tokens(tiny: ModuleType, prompt: list[int], count: int) -> list[int]:
    driver, line = tiny.reference_driver(), _line(tiny, prompt)
    token = int(driver.step([(line, len(prompt))])[0])
    for _ in range(count - 1):
        line.tokens.append(token)
        token = int(driver.step([(line, 1)])[0])
    return [*line.tokens[len(prompt) :], token]


def _async_library() -> ReferenceLibrary:
    library = ReferenceLibrary()
    library.capabilities = replace(library.capabilities, async_depth=3)
    return library


def _executor(tiny: ModuleType, library: ReferenceLibrary, plan: ExecutorPlan | None = None) -> GraphExecutor:
    plan = plan or tiny.make_plan()
    executor = GraphExecutor(library, plan)
    executor.load(tiny.RandomWeights(plan.model), lambda done, total: None)
    executor.allocate_kv(KVPlan(num_blocks={"kv": 20}))
    return executor


def test_tokens_feed_back_without_reaching_the_host(tiny: ModuleType) -> None:
    """Three steps in flight, two sequences whose rows change places between steps."""
    driver = tiny.Driver(_executor(tiny, _async_library()))
    lines = [_line(tiny, PROMPT[:4]), _line(tiny, PROMPT[4:9], {"full": [0, 11], "sliding": [12, 13]})]
    pending, order, previous = [], [0, 1], [0, 1]
    for step in range(3):
        order = order[::-1] if step else order
        chunks = [(lines[i], 1 if step else len(lines[i].tokens)) for i in order]
        for i in order if step else ():
            lines[i].tokens.append(-1)
        fields = {"prev_row": np.array([previous.index(i) for i in order], np.int32)} if step else {}
        batch = driver.batch(chunks, step=step, **fields)
        pending.append((list(order), driver.executor.submit(batch)))
        for line, n in chunks:
            line.num_computed += n
        previous = list(order)
    got: dict[int, list[int]] = {0: [], 1: []}
    for order_, step_ in pending:
        for row, token in zip(order_, step_.result().tokens[:, 0], strict=True):
            got[row].append(int(token))
    expected = {0: _greedy_tokens(tiny, PROMPT[:4], 3), 1: _greedy_tokens(tiny, PROMPT[4:9], 3)}
    assert got == expected
    assert expected[0] != expected[1], "equal outputs would prove nothing about rows"


def test_a_fed_back_token_needs_a_row_in_the_step_before(tiny: ModuleType) -> None:
    driver, line = tiny.reference_driver(), _line(tiny, [-1])
    with pytest.raises(BackendError, match="step 0 failed") as caught:
        driver.step([(line, 1)])
    assert isinstance(caught.value.__cause__, InternalError)


def test_more_steps_in_flight_than_declared_are_refused(tiny: ModuleType) -> None:
    driver, line = tiny.reference_driver(), _line(tiny)
    pending = driver.executor.submit(driver.batch([(line, 2)]))
    with pytest.raises(InternalError, match="async_depth"):
        driver.executor.submit(driver.batch([(line, 2)]))
    pending.result()
    driver.executor.submit(driver.batch([(line, 2)])).result()


def test_a_step_without_sampling_gives_no_tokens(tiny: ModuleType) -> None:
    driver, line = tiny.reference_driver(tiny.make_plan(return_logits=False)), _line(tiny)
    batch = driver.batch([(line, 6)], sampling=None, logits_indices=np.empty(0, np.int32))
    result = driver.executor.submit(batch).result()
    assert result.tokens.shape == (0, 1)
    assert result.num_emitted.shape == (0,)
    assert result.logits is None


def test_weights_are_read_once_and_reported(tiny: ModuleType) -> None:
    plan = tiny.make_plan()
    executor, source, seen = GraphExecutor(ReferenceLibrary(), plan), tiny.RandomWeights(plan.model), []
    source.total_bytes = 10**6
    report = executor.load(source, lambda done, total: seen.append((done, total)))
    assert source.reads.count("embed") == 1, "the tied head reads the embedding again"
    assert len(set(source.reads)) == len(source.reads)
    unique = {w.source: w for part in plan.model.parts() for w in part.graph.weights.values()}
    sizes = plan.model.axis_sizes()
    num_bytes = sum(4 * int(np.prod([d.evaluate(sizes) for d in w.shape])) for w in unique.values())
    assert report.bytes_by_purpose == {"weights": num_bytes}
    assert seen[-1] == (num_bytes, 10**6)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert dict(report.placement)["linear"] == "reference"


def test_keep_f32_weights_are_not_rounded(tiny: ModuleType) -> None:
    held: dict[str, str] = {}

    class Watching(ReferenceLibrary):
        def put_weight(self, weight: Any, array: np.ndarray, dtype: str) -> np.ndarray:
            held[weight.name] = dtype
            return super().put_weight(weight, array, dtype)

    model = tiny.build_model()
    graph = model.embed.graph
    weights = {name: replace(weight, keep_f32=True) for name, weight in graph.weights.items()}
    model = replace(model, embed=replace(model.embed, graph=replace(graph, weights=weights)))
    plan = tiny.make_plan(model, weight_dtype="bfloat16")
    GraphExecutor(Watching(), plan).load(tiny.RandomWeights(model), lambda done, total: None)
    assert held["embed"] == "float32"
    assert held["head"] == "bfloat16", "the tied head is another dtype and so another array"


def test_groups_of_one_pool_share_storage(tiny: ModuleType) -> None:
    library = ReferenceLibrary()
    executor = _executor(tiny, library)
    before = library.memory()[0]
    ids = np.array([5], np.int32)
    page = {name: np.full((1, 1, tiny.BLOCK, tiny.KV_HEADS, tiny.HEAD_DIM), 7, np.float32) for name in "kv"}
    executor.write_blocks("full", ids, page)
    np.testing.assert_array_equal(executor.read_blocks("sliding", ids)["v"], page["v"])
    one_layer = 2 * 20 * tiny.BLOCK * tiny.KV_HEADS * tiny.HEAD_DIM * 4
    assert before - one_layer == sum(_weight_bytes(tiny).values())


def _weight_bytes(tiny: ModuleType) -> dict[str, int]:
    plan = tiny.make_plan()
    return dict(
        GraphExecutor(ReferenceLibrary(), plan)
        .load(tiny.RandomWeights(plan.model), lambda done, total: None)
        .bytes_by_purpose
    )


def test_a_pool_without_blocks_is_named(tiny: ModuleType) -> None:
    executor = GraphExecutor(ReferenceLibrary(), tiny.make_plan())
    with pytest.raises(BackendError, match="pool 'kv'"):
        executor.allocate_kv(KVPlan(num_blocks={"other": 3}))


class PoorLibrary(ReferenceLibrary):
    """Has its own array type and lacks some ops."""

    name = "poor"
    lacks: frozenset[str] = frozenset({"linear", "rms_norm", "take_rows"})

    def put(self, array: np.ndarray, dtype: str | None = None) -> Any:
        return {"device": super().put(array, dtype)}

    def get(self, array: Any) -> np.ndarray:
        return array["device"]

    def put_weight(self, weight: Any, array: np.ndarray, dtype: str) -> Any:
        return {"device": super().put_weight(weight, array, dtype)}

    def lower(self, node: Node, graph: Graph, plan: ExecutorPlan) -> Kernel | None:
        if node.op in self.lacks:
            return None
        kernel = super().lower(node, graph, plan)

        def on_device(context: Any, inputs: Any, weights: Any) -> Any:
            bare = replace(context, device={name: self.get(array) for name, array in context.device.items()})
            results = kernel(bare, tuple(map(_unwrapped, inputs)), tuple(map(_unwrapped, weights)))
            return tuple({"device": r} if isinstance(r, np.ndarray) else r for r in results)

        return on_device


def _unwrapped(value: Any) -> Any:
    return value["device"] if isinstance(value, dict) else value


def test_ops_that_a_library_lacks_run_on_the_reference(tiny: ModuleType) -> None:
    plan, library = tiny.make_plan(), PoorLibrary()
    executor = GraphExecutor(library, plan)
    report = executor.load(tiny.RandomWeights(plan.model), lambda done, total: None)
    executor.allocate_kv(KVPlan(num_blocks={"kv": 20}))
    where = dict(report.placement)
    assert {op for op, place in where.items() if place == "reference"} == PoorLibrary.lacks
    assert {place for op, place in where.items() if op not in PoorLibrary.lacks} == {"poor"}
    assert report.bytes_by_purpose["weights"] == tiny.VOCAB * tiny.HIDDEN * 4, "only the embedding is on the device"
    assert report.bytes_by_purpose["host copies for the reference"] == sum(_weight_bytes(tiny).values())
    driver, line = tiny.Driver(executor), _line(tiny)
    driver.step([(line, 17)])
    np.testing.assert_array_equal(driver.logits_of(line), _run(tiny, [17]))


def test_strict_lists_every_op_that_would_fall_back(tiny: ModuleType) -> None:
    with pytest.raises(BackendError, match=r"poor does not implement linear, rms_norm, take_rows"):
        GraphExecutor(PoorLibrary(), tiny.make_plan(strict=True))
    GraphExecutor(ReferenceLibrary(), tiny.make_plan(strict=True))


def test_cache_ops_cannot_fall_back(tiny: ModuleType) -> None:
    class NoAttention(PoorLibrary):
        lacks = frozenset({"paged_attention", "cache_write", "add"})

    with pytest.raises(BackendError, match=r"does not implement cache_write, paged_attention\n"):
        GraphExecutor(NoAttention(), tiny.make_plan())


def test_a_failing_kernel_fails_its_step_and_not_the_submit(tiny: ModuleType) -> None:
    class Failing(ReferenceLibrary):
        broken = False

        def lower(self, node: Node, graph: Graph, plan: ExecutorPlan) -> Kernel:
            kernel = super().lower(node, graph, plan)

            def maybe(context: Any, inputs: Any, weights: Any) -> Any:
                if self.broken and node.op == "paged_attention":
                    raise MemoryError("device is out of memory")
                return kernel(context, inputs, weights)

            return maybe

    library = Failing()
    driver, line = tiny.Driver(_executor(tiny, library)), _line(tiny)
    library.broken = True
    pending = driver.executor.submit(driver.batch([(line, 3)]))
    with pytest.raises(BackendError, match=r"step 0 failed on device reference\n  because: MemoryError: device is out"):
        pending.result()
    library.broken = False
    driver.step([(line, 3)])
    assert np.isfinite(driver.logits_of(line)).all()


def test_a_closed_executor_says_so(tiny: ModuleType) -> None:
    driver, line = tiny.reference_driver(), _line(tiny)
    driver.executor.close()
    driver.executor.close()
    with pytest.raises(BackendError, match="closed"):
        driver.step([(line, 1)])
    with pytest.raises(BackendError, match="closed"):
        driver.executor.read_blocks("full", np.array([0]))


def test_a_plan_beyond_the_capabilities_is_refused_whole(tiny: ModuleType) -> None:
    with pytest.raises(BackendError, match="KV dtype float8") as caught:
        GraphExecutor(ReferenceLibrary(), tiny.make_plan(kv_dtype="float8", block_size=7))
    assert "block size 7 (it has 16, 32" in str(caught.value)


@pytest.mark.parametrize("place", ["_token_ids", "_logits"])
def test_a_step_interrupted_in_submit_is_not_unread_for_ever(
    tiny: ModuleType, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver, line = tiny.reference_driver(), _line(tiny)
    with monkeypatch.context() as patch:
        patch.setattr(driver.executor, place, _interrupt)
        for _ in range(5):
            with pytest.raises(KeyboardInterrupt):
                driver.executor.submit(driver.batch([(line, 14)]))
    driver.step([(line, 14)])
    np.testing.assert_array_equal(driver.logits_of(line), _run(tiny, [14]))


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt
