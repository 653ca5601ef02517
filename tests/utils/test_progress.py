import time
from pathlib import Path

from utils.progress import file_progress


def put(path: Path) -> None:
    """As ``atomic_path`` does: a new file takes the place of an old one."""
    partial = path.with_name("partial")
    partial.touch()
    partial.replace(path)


def last_count(text: str) -> str:
    return text.split("|")[-1].split()[0]


def test_files_of_every_process_count_and_stale_ones_when_replaced(tmp_path, capsys):
    folders = [tmp_path, tmp_path / "later"]
    for name in ("a", "b", "sheet"):
        put(tmp_path / name)
    names = ["a", "b", "c", "d"]
    with file_progress(folders, names, [tmp_path / "b", tmp_path / "c"], "maps"):
        assert last_count(capsys.readouterr().err) == "1/4"
        folders[1].mkdir()
        put(folders[1] / "d")
        put(tmp_path / "b")
        time.sleep(1.3)
        assert last_count(capsys.readouterr().err) == "3/4"
        put(folders[1] / "c")
        put(folders[1] / "a")
    assert last_count(capsys.readouterr().err) == "4/4"
