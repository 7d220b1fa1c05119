"""Error messages are bounded and cannot control a terminal, whatever they quote."""

from __future__ import annotations

import pickle

from quire.errors import BackendError, ModelError, RequestError


def test_what_others_wrote_is_cut() -> None:
    error = ModelError("x" * 10**6, because="y" * 10**6)
    assert len(str(error)) < 10_000
    assert error.what.endswith("x ...")


def test_characters_that_control_a_terminal_are_written_as_escapes() -> None:
    error = ModelError("name \x1b[31mred\r\x07", because="two\nlines \x9b", hint="grün 🙂 \ud83d")
    assert error.what == r"name \x1b[31mred\r\x07"
    assert error.because == "two\nlines \\x9b"
    assert error.hint == "grün 🙂 \\ud83d"
    str(error).encode()


def test_errors_survive_a_process_border() -> None:
    for error in (ModelError("what", because="why", hint="how"), RequestError("what", because="why", param="field")):
        again = pickle.loads(pickle.dumps(error))
        assert (type(again), str(again)) == (type(error), str(error))


def test_plugins_of_contract_1_1_call_the_hint_try() -> None:
    for error in (BackendError("what", because="why", try_="how"), RequestError("what", because="why", try_="how")):
        assert (error.hint, error.try_) == ("how", "how")
        assert str(error) == "what\n  because: why\n  hint: how"


def test_the_kind_of_a_devices_error_survives_a_process_border() -> None:
    error = BackendError("what", because="why", kind="sequence", sequences=(2, 0))
    again = pickle.loads(pickle.dumps(error))
    assert (again.kind, again.sequences, str(again)) == ("sequence", (2, 0), str(error))
    assert (BackendError("what").kind, BackendError("what").sequences) == ("step", ())
