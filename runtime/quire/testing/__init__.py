"""A device without hardware, for tests, benchmarks of the core and trials of a front end."""

from quire.testing.fake_device import FakeExecutor, fake_executor, fake_model
from quire.testing.fake_faults import FakeFaults
from quire.testing.fake_pages import FakeDeviceFault

__all__ = ["FakeDeviceFault", "FakeExecutor", "FakeFaults", "fake_executor", "fake_model"]
