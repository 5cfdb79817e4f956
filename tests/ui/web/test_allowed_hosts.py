"""Which hosts the page answers, without opening it."""

import pytest

from orpo_qlora.errors import InputError
from orpo_qlora.ui.web.security import AllowedHosts


@pytest.mark.parametrize("host", ["::", "::1", ""])
def test_an_address_the_page_cannot_listen_on_is_refused(host):
    with pytest.raises(InputError, match="cannot listen"):
        AllowedHosts.of(host)


@pytest.mark.parametrize("name", ["http://a.example", "a.example:80", "a.example/", "", "*"])
def test_a_public_name_is_a_bare_name(name):
    with pytest.raises(InputError, match="not a host name"):
        AllowedHosts.of("127.0.0.1", [name])


@pytest.mark.parametrize(
    ("host", "names", "needed"),
    [
        ("127.0.0.1", [], False),
        ("localhost", [], False),
        ("127.0.0.1", ["studio.example"], True),
        ("0.0.0.0", [], True),
        ("127.0.0.2", [], True),
        ("192.168.0.7", [], True),
        ("machine.example", [], True),
    ],
)
def test_a_page_that_others_can_reach_needs_a_login(host, names, needed):
    assert AllowedHosts.of(host, names).needs_login is needed


@pytest.mark.parametrize(
    ("asked", "alone", "exposed"),
    [
        ("127.0.0.1:7860", True, True),
        ("LOCALHOST", True, True),
        ("192.168.0.7:7860", False, True),
        ("studio.example:443", False, True),
        ("evil.example:7860", False, False),
        ("studio.example.evil.example", False, False),
        ("127.0.0.1:7860:1", False, False),
        ("127.0.0.1:", True, True),
        ("[::1]:7860", False, False),
        ("", False, False),
    ],
)
def test_names_are_allowed_and_addresses_once_others_can_reach_the_page(asked, alone, exposed):
    assert AllowedHosts.of("127.0.0.1").includes(asked) is alone
    assert AllowedHosts.of("0.0.0.0", ["studio.example"]).includes(asked) is exposed
