"""`LLM`: the offline API, as vLLM users know it."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any

from quire.engine.config import EngineConfig
from quire.engine.input_processor import Prompt
from quire.engine.llm_engine import LLMEngine
from quire.errors import RequestError
from quire.outputs import RequestOutput
from quire.sampling_params import SamplingParams

Conversation = list[dict[str, Any]]

ProgressBar = bool | Callable[..., Any] | None
"""Whether to show one; None = on a terminal; or what makes it, called as `tqdm.tqdm` is."""

_VLLM_GENERATE = frozenset(
    {
        "lora_request",
        "prompt_adapter_request",
        "guided_options_request",
        "prompt_token_ids",
        "tokenization_kwargs",
        "mm_processor_kwargs",
    }
)
_VLLM_CHAT = _VLLM_GENERATE | {"chat_template", "chat_template_content_format"}
"""Arguments of vLLM's methods that are taken where they say nothing."""


class LLM:
    """A model loaded in this process.

        llm = LLM(model="demo")
        question = [{"role": "user", "content": "What is a block table?"}]
        print(llm.chat(question, SamplingParams(max_tokens=64))[0].outputs[0].text)

    Args:
        model: local folder, .gguf file, hub id, or "demo".
        options: any other field of `EngineConfig`: device, dtype, max_model_len, skip_tokenizer_init, ... Arguments
            of vLLM's LLM are taken under their names where they mean the same or change no answer (said once in the
            log), and refused by name where they would: `quire.engine.vllm_options`.
    Raises: ConfigError, ModelError or BackendError when it cannot be loaded.
    """

    def __init__(self, model: str = "demo", **options: Any) -> None:
        self._engine = LLMEngine(EngineConfig.from_options(model=model, **options))
        self._turn = threading.Lock()
        self._turn_of: int | None = None  # the thread that has it
        self._left_requests = False  # a call may have been left, by an exception, before it took back its requests

    @property
    def engine(self) -> LLMEngine:
        """The engine below, for callers who step it themselves."""
        return self._engine

    def get_tokenizer(self) -> Any:
        """The Tokenizer, or None with skip_tokenizer_init."""
        return self._engine.tokenizer

    def get_default_sampling_params(self) -> SamplingParams:
        """What `generate` uses without params: the model's generation_config.json over the API's defaults."""
        return SamplingParams(**self._engine.sampling_defaults)

    def generate(
        self,
        prompts: Prompt | Sequence[Prompt],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
        use_tqdm: ProgressBar = None,
        *,
        priority: Sequence[int] | None = None,
        **others: Any,
    ) -> list[RequestOutput]:
        """Completes prompts, batched together; outputs in the order of the prompts.

        Args:
            prompts: a text, {"prompt_token_ids": [...]}, or a list of them.
            sampling_params: one for all, or one per prompt; None = `get_default_sampling_params`.
            use_tqdm: progress bar on standard error; None = on a terminal.
            priority: one per prompt, lower first, under the priority policy.
            others: arguments of vLLM's `generate` that are not supported: None, or refused by name.
        Raises: RequestError for a bad prompt or parameter (then nothing was generated). A request that fails later has
            finish_reason "error" and its `error`, and the others go on; its error is raised when none succeeded.
        """
        _refuse(others, "generate", _VLLM_GENERATE)
        if not isinstance(prompts, Iterable):
            raise RequestError(
                f"prompts is {prompts!r}",
                because="prompts are texts or token ids",
                hint='a text, {"prompt_token_ids": [...]} or a list of those',
                param="prompts",
            )
        items = [prompts] if isinstance(prompts, (str, Mapping)) else list(prompts)
        if items and isinstance(items[0], int):
            raise RequestError(
                "prompts is a list of ints",
                because="it could be one prompt or many",
                hint='{"prompt_token_ids": [...]} or a list of those',
                param="prompts",
            )
        return self._run(items, sampling_params, use_tqdm, priority, add_special_tokens=True)

    def chat(
        self,
        messages: Conversation | Sequence[Conversation],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
        use_tqdm: ProgressBar = None,
        *,
        tools: list[dict[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        chat_template_kwargs: Mapping[str, Any] | None = None,
        **others: Any,
    ) -> list[RequestOutput]:
        """Answers one conversation or several, each a list of {"role", "content"}; arguments as `generate`."""
        if others.get("chat_template_content_format") == "auto":
            del others["chat_template_content_format"]  # vLLM's default, and what happens here
        _refuse(others, "chat", _VLLM_CHAT)
        if isinstance(messages, (str, Mapping)):
            raise RequestError(
                "messages is no list of messages",
                because="a conversation is a list",
                hint='[{"role": "user", "content": "..."}]',
                param="messages",
            )
        conversations: list[Any] = [messages] if messages and isinstance(messages[0], dict) else list(messages)
        prompts = [
            self._engine.render_chat(
                conversation,
                tools=tools,
                add_generation_prompt=add_generation_prompt,
                continue_final_message=continue_final_message,
                chat_template_kwargs=chat_template_kwargs,
            )
            for conversation in conversations
        ]
        return self._run(prompts, sampling_params, use_tqdm, None, add_special_tokens=False)

    def sleep(self) -> None:
        """Gives the memory of the KV cache back until `wake_up`; the weights stay, the prefix cache is emptied.

        Raises: ConfigError while requests run; BackendError where the device cannot do it.
        """
        self._refuse_reentry()
        with self._turn:
            self._engine.loaded.core.sleep()

    def wake_up(self) -> None:
        """Ends `sleep`. Raises BackendError when there is no room for the KV cache now; then it sleeps on."""
        self._refuse_reentry()
        with self._turn:
            self._engine.loaded.core.wake()

    def close(self) -> None:
        """Frees the device; safe to call twice. Waits for calls of other threads."""
        self._refuse_reentry()
        with self._turn:
            self._engine.close()

    def __enter__(self) -> LLM:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _run(
        self,
        prompts: Sequence[Any],
        params: SamplingParams | Sequence[SamplingParams] | None,
        use_tqdm: ProgressBar,
        priority: Sequence[int] | None,
        *,
        add_special_tokens: bool,
    ) -> list[RequestOutput]:
        params_list = self._per_prompt("sampling_params", params, len(prompts))
        priorities = list(priority) if priority is not None else [0] * len(prompts)
        if len(priorities) != len(prompts):
            raise RequestError(
                f"{len(priorities)} priorities for {len(prompts)} prompts",
                because="each prompt has one",
                param="priority",
            )
        self._refuse_reentry()
        with self._turn:
            self._turn_of = threading.get_ident()
            try:
                if self._left_requests:
                    self._engine.abort_all()
                self._left_requests = True
                order = [
                    self._engine.add_request(
                        prompt, prompt_params, priority=rank, add_special_tokens=add_special_tokens
                    )
                    for prompt, prompt_params, rank in zip(prompts, params_list, priorities, strict=True)
                ]
                finished = self._drain(len(order), sys.stderr.isatty() if use_tqdm is None else use_tqdm)
                self._left_requests = False
            except BaseException:
                self._engine.abort_all()
                self._left_requests = False
                raise
            finally:
                self._turn_of = None
        return _unless_all_failed([finished[request_id] for request_id in order])

    def _refuse_reentry(self) -> None:
        """Calls from several threads are served one after the other; one inside another, of the same thread, never."""
        if self._turn_of == threading.get_ident():
            raise RequestError(
                "this LLM is asked while it answers, by the same thread",
                because="a signal handler or a callback calls it in the middle of its own call",
                hint="the call after the first has returned",
            )

    def _per_prompt(
        self, name: str, params: SamplingParams | Sequence[SamplingParams] | None, count: int
    ) -> list[SamplingParams]:
        if params is None:
            return [self.get_default_sampling_params()] * count
        if isinstance(params, SamplingParams):
            return [params] * count
        several = list(params) if isinstance(params, Sequence) else [params]
        for one in several:
            if not isinstance(one, SamplingParams):
                raise RequestError(
                    f"{name} is {one!r}",
                    because=f"it is a {type(one).__name__}, not a SamplingParams",
                    hint="SamplingParams(...)",
                    param=name,
                )
        if len(several) != count:
            raise RequestError(
                f"{len(several)} {name} for {count} prompts", because="each prompt takes one", param=name
            )
        return several

    def _drain(self, count: int, make_bar: bool | Callable[..., Any]) -> dict[str, RequestOutput]:
        """Steps until everything is finished."""
        finished: dict[str, RequestOutput] = {}
        bar = None
        if make_bar:
            from tqdm import tqdm

            bar = (make_bar if callable(make_bar) else tqdm)(total=count, desc="prompts", unit="prompt")
        try:
            while self._engine.has_unfinished():
                for output in self._engine.step():
                    if output.finished:
                        finished[output.request_id] = output
                        if bar is not None:
                            bar.update(1)
        finally:
            if bar is not None:
                bar.close()
        return finished


def _unless_all_failed(outputs: list[RequestOutput]) -> list[RequestOutput]:
    """The outputs, unless all of them failed."""
    errors = [output.error for output in outputs if output.error is not None]
    if errors and len(errors) == len(outputs):
        raise errors[0]
    return outputs


def _refuse(others: Mapping[str, Any], method: str, known: frozenset[str]) -> None:
    """Raises RequestError for an argument that means something."""
    for name, value in others.items():
        if name not in known or value is not None:
            raise RequestError(
                f"LLM.{method} has no argument {name!r}",
                because="it would change the answers" if name in known else "nobody reads it",
                hint=f"the call without {name}",
                param=name,
            )
