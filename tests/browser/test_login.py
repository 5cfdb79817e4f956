"""The login in the real browser."""

import re

import pytest
from pages import chromium
from playwright.sync_api import expect
from serving import serving

pytestmark = pytest.mark.browser

PATIENCE = 120_000


def test_the_password_opens_the_page_where_the_address_leads(own_home):
    with serving(own_home, "--host", "0.0.0.0") as served, chromium() as browser:
        password = re.search(r"password is: (\S+)", served.said)[1]
        page = browser.new_page()
        page.goto(f"{served.address}/?tab=train")
        field = page.get_by_label("Password")
        expect(field).to_be_focused()
        field.fill("wrong")
        field.press("Enter")
        expect(page.get_by_role("alert")).to_have_text("Wrong password.")
        refused = []
        page.on(
            "response", lambda answer: refused.append(answer.url) if answer.status >= 400 else 0
        )
        page.get_by_label("Password").fill(password)
        page.get_by_role("button", name="Log in").click()
        expect(page.get_by_role("tab", name="Train")).to_have_attribute(
            "aria-selected", "true", timeout=PATIENCE
        )
        assert refused == []
        stranger = browser.new_context().new_page()
        stranger.goto(served.address)
        expect(stranger.get_by_label("Password")).to_be_visible()
