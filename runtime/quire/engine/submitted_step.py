"""A step between its submission and its result, and whether that result is what was asked for."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from quire.device.batch import StepResult
from quire.device.contract import Pending
from quire.engine.step_builder import PromptRows
from quire.errors import BackendError
from quire.scheduler.plan import StepPlan


@dataclass(frozen=True, slots=True)
class SubmittedStep:
    """A step whose tokens were not read yet; `outcome` is the error when the executor did not take it."""

    plan: StepPlan
    prompt_rows: PromptRows | None
    outcome: Pending | BackendError

    def checked(self, result: StepResult) -> StepResult:
        """The result, if it has one row of tokens for each that was to be drawn, and of logprobs for each prompt row.

        Raises BackendError that says what the executor returned instead.
        """
        shape, num_sampled = np.shape(result.tokens), len(self.plan.sampled)
        if len(shape) != 2 or shape[0] != num_sampled or shape[1] < 1:
            raise _contract_error(f"tokens {list(shape)} for {num_sampled} sampled rows")
        if not isinstance(result.tokens, np.ndarray) or not np.issubdtype(result.tokens.dtype, np.integer):
            raise _contract_error("tokens that are no array of integers")
        num_prompt_rows = 0 if self.prompt_rows is None else len(self.prompt_rows.places)
        rows = () if result.prompt_logprobs is None else result.prompt_logprobs.ranks
        if num_prompt_rows and len(rows) != num_prompt_rows:
            raise _contract_error(f"{len(rows)} rows of prompt logprobs for {num_prompt_rows} tokens of prompts")
        return result


def _contract_error(what: str) -> BackendError:
    return BackendError(
        f"the executor returned {what}", because="it does not keep the contract", hint="quire conform --device NAME"
    )
