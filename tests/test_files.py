"""Files are written completely or not at all."""

import pytest

from openrlhf_pf.files import replace_file


@pytest.mark.parametrize(("mode", "content"), [("w", "née\n"), ("wb", b"\x00\x01")])
def test_the_content_takes_the_place_of_the_old_file(tmp_path, mode, content):
    path = tmp_path / "file"
    path.write_text("old")
    with replace_file(path, mode) as file:
        file.write(content)
        assert path.read_text() == "old"
    assert (path.read_bytes() if mode == "wb" else path.read_text(encoding="utf-8")) == content
    assert list(tmp_path.iterdir()) == [path]


def test_after_an_exception_the_old_file_stays(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(KeyError), replace_file(path) as file:
        file.write("half")
        raise KeyError
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]
