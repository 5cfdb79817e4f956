import json
import os
import threading

import pytest

from orpo_qlora.errors import InputError
from orpo_qlora.ui.web import password
from orpo_qlora.ui.web.password import BackOff, Password, Sessions, open_password, password_file


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


def test_the_password_is_told_once_and_only_its_hash_is_kept():
    kept, text = open_password()
    assert kept.matches(text)
    assert open_password() == (kept, None)
    written = password_file().read_text()
    assert text not in written
    assert not any(group in written for group in text.split("-"))


def test_the_hash_is_for_its_owner_alone():
    before = os.umask(0)
    try:
        open_password()
    finally:
        os.umask(before)
    assert password_file().stat().st_mode & 0o777 == 0o600
    assert {path.name for path in password_file().parent.glob(".*")} == set()


def test_a_new_password_is_long_and_salted():
    texts = set()
    for _ in range(3):
        password_file().unlink(missing_ok=True)
        _, text = open_password()
        texts.add(text)
        assert len(text.replace("-", "")) * 5 >= 100  # bits
    assert len(texts) == 3
    assert Password.of("same").scrypt != Password.of("same").scrypt
    assert len(set(password.LETTERS)) == 32


@pytest.mark.parametrize("wrong", ["", " ", "x", "right ", "Right", "\0", "\ud800", "x" * 4096])
def test_anything_else_is_wrong(wrong):
    assert not Password.of("right").matches(wrong)


def test_two_first_starts_agree_on_one_password():
    found = []
    starts = [threading.Thread(target=lambda: found.append(open_password())) for _ in range(4)]
    for start in starts:
        start.start()
    for start in starts:
        start.join()
    assert len({kept.scrypt for kept, _ in found}) == 1
    assert sum(text is not None for _, text in found) == 1


@pytest.mark.parametrize(
    "change", [{"cost": 2}, {"salt": "00"}, {"scrypt": ""}, {"plain": "no"}, {"cost": 2**30}]
)
def test_a_login_that_was_changed_is_an_error_with_a_way_out(change):
    open_password()
    kept = json.loads(password_file().read_text())
    password_file().write_text(json.dumps(kept | change))
    with pytest.raises(InputError, match="cannot be read") as caught:
        open_password()
    assert "Delete that file" in caught.value.hint


def test_each_failure_after_the_third_doubles_the_wait():
    clock = Clock()
    back_off = BackOff(clock)
    waits = []
    for _ in range(12):
        back_off.failed("a")
        waits.append(back_off.wait_seconds("a"))
        clock.now += waits[-1]
        assert back_off.wait_seconds("a") == 0
    assert waits == [0, 0, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]
    assert back_off.wait_seconds("b") == 0


def test_failures_are_forgotten_with_the_right_password_and_with_time():
    clock = Clock()
    back_off = BackOff(clock)
    for _ in range(4):
        back_off.failed("a")
        back_off.failed("b")
    back_off.succeeded("a")
    assert back_off.wait_seconds("a") == 0
    clock.now += password.FORGET_SECONDS
    back_off.failed("b")
    assert back_off.wait_seconds("b") == 0


def test_very_many_addresses_take_little_memory(monkeypatch):
    monkeypatch.setattr(password, "ADDRESSES_KEPT", 3)
    back_off = BackOff(Clock())
    for _ in range(3):
        back_off.failed("kept")
    for address in "abc":
        back_off.failed(address)
    assert len(back_off._failures) == 3


def test_a_session_lasts_while_it_is_used():
    clock = Clock()
    sessions = Sessions(clock)
    token, other = sessions.open(), sessions.open()
    assert token != other
    assert not sessions.is_open("")
    assert not sessions.is_open(token[:-1])
    for _ in range(3):
        clock.now += password.SESSION_SECONDS - 1
        assert sessions.is_open(token)
    assert not sessions.is_open(other)
    assert not sessions.is_open(other), "forgotten, not only late"


def test_no_more_sessions_than_promised(monkeypatch):
    monkeypatch.setattr(password, "SESSIONS_KEPT", 2)
    sessions = Sessions(Clock())
    first, *_, last = [sessions.open() for _ in range(3)]
    assert not sessions.is_open(first)
    assert sessions.is_open(last)
