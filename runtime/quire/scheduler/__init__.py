"""Who runs in the next step, with how many tokens, in which blocks."""

from quire.scheduler.plan import StepPlan
from quire.scheduler.policy import SequenceQueue, order_key
from quire.scheduler.scheduler import Scheduler, SchedulerLimits
from quire.scheduler.sequence import Request, Sequence, Status

__all__ = ["Request", "Scheduler", "SchedulerLimits", "Sequence", "SequenceQueue", "Status", "StepPlan", "order_key"]
