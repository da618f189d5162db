from __future__ import annotations

import ast

import pytest

from fedkube.app import project
from fedkube.cli import new
from fedkube.core.errors import Environment, Usage


def test_what_is_written_is_an_app(tmp_path):
    folder = new.write(tmp_path / "My App")
    read = project.read(folder)
    assert (read.name, read.serverapp) == ("my-app", "my_app.server_app:app")
    assert read.clientapp == "my_app.client_app:app"
    for file in (folder / "my_app").iterdir():
        ast.parse(file.read_text())
        assert "$" not in file.read_text(), "a word of the template was left"
    assert (folder / "README.md").read_text()


def test_its_run_config_is_what_its_code_reads(tmp_path):
    folder = new.write(tmp_path / "app")
    code = "".join(file.read_text() for file in (folder / "app").iterdir())
    for key in project.read(folder).config:
        assert f'"{key}"' in code


@pytest.mark.parametrize("name", ["class", "1app", "---", "ééé", "import"])
def test_a_name_that_gives_no_package_is_refused(tmp_path, name):
    with pytest.raises(Usage, match="gives no name for a Python package"):
        new.write(tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_with_something_in_it_is_left_alone(tmp_path):
    (tmp_path / "app").mkdir()
    (tmp_path / "app" / "mine.txt").write_text("mine")
    with pytest.raises(Usage, match="is there already, and not empty"):
        new.write(tmp_path / "app")
    assert [path.name for path in (tmp_path / "app").iterdir()] == ["mine.txt"]


def test_a_file_of_that_name_is_left_alone(tmp_path):
    (tmp_path / "app").write_text("mine")
    with pytest.raises(Usage, match="is there already"):
        new.write(tmp_path / "app")


def test_an_empty_folder_is_used(tmp_path):
    (tmp_path / "app").mkdir()
    assert new.write(tmp_path / "app") == tmp_path / "app"


def test_a_place_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(Environment, match="cannot write"):
        new.write(tmp_path / "file" / "app")
