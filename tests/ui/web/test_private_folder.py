import os
import signal
import tempfile

import pytest

from orpo_qlora.ui.web.private_folder import PREFIX, private_folder


@pytest.fixture(autouse=True)
def own_temporary(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


def folders(tmp_path):
    return sorted(path for path in tmp_path.iterdir() if path.name.startswith(PREFIX))


def page_that_is_killed():
    """A page with an upload, ended before it could tidy up."""
    child = os.fork()
    if child == 0:
        with private_folder() as folder:
            (folder / "upload.csv").write_text("prompt,chosen,rejected\n")
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)


def test_the_folder_is_private_and_goes_with_its_page(tmp_path, own_home):
    with private_folder() as folder:
        assert folders(tmp_path) == [folder]
        assert folder.stat().st_mode & 0o777 == 0o700
        (folder / "upload.csv").write_text("")
    assert folders(tmp_path) == []
    assert [path.name for path in (own_home / "pages").iterdir()] == ["lock"]


def test_the_next_page_removes_what_a_killed_one_left_and_no_living_one_s(tmp_path, own_home):
    with private_folder() as living:
        page_that_is_killed()
        assert len(folders(tmp_path)) == 2
        with private_folder() as fresh:
            assert folders(tmp_path) == sorted([living, fresh])
        assert folders(tmp_path) == [living]
    assert [path.name for path in (own_home / "pages").iterdir()] == ["lock"]


@pytest.mark.parametrize("kind", ["another name", "a link", "gone"])
def test_a_note_leads_to_no_folder_but_a_page_s(tmp_path, own_home, kind):
    precious = tmp_path / "precious"
    precious.mkdir()
    notes = own_home / "pages"
    notes.mkdir(parents=True)
    note = notes / f"{PREFIX}1234"
    named = {"another name": precious}.get(kind, tmp_path / note.name)
    if kind == "a link":
        named.symlink_to(precious)
    note.write_text(str(named))
    with private_folder():
        assert not note.exists()
    assert precious.is_dir()
