from __future__ import annotations

import msgspec

from quire.engine.messages import EngineRequest, EngineStats, SequenceOutput, TokenLogprobs
from quire.sampling_params import SamplingParams


def test_messages_survive_msgpack() -> None:
    request = EngineRequest(
        request_id="a",
        prompt_token_ids=(1, 2),
        bad_words_token_ids=((3,), (4, 5)),
        cache_salt="s",
        params=SamplingParams(n=2, stop=["end"], stop_token_ids=[7], logit_bias={3: 1.5}),
        resume_token_ids=((1, 2), None),
    )
    decoded = msgspec.msgpack.Decoder(EngineRequest).decode(msgspec.msgpack.encode(request))
    assert decoded == request
    logprobs = TokenLogprobs([1, 1], [-0.5, -0.5], 1)
    outputs = [SequenceOutput("a", 0, [1], "stop", 7, [logprobs], [None, logprobs], 4), SequenceOutput("a", 1, [])]
    assert msgspec.msgpack.Decoder(list[SequenceOutput]).decode(msgspec.msgpack.encode(outputs)) == outputs
    stats = EngineStats(num_running=3, kv_waste=0.5)
    assert msgspec.msgpack.Decoder(EngineStats).decode(msgspec.msgpack.encode(stats)) == stats
