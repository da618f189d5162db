from __future__ import annotations

import pytest

from fedkube.app import project
from fedkube.core.errors import AppInvalid, Usage

COMPONENTS = """
[tool.flwr.app.components]
serverapp = "a.server:app"
clientapp = "a.client:app"
"""


# ------------------------------------------------------------- reading an app


def test_an_app_is_read(write_app):
    folder = write_app(
        '[project]\nname = "digits"\n' + COMPONENTS + "[tool.flwr.app.config]\nlr = 0.1\nn = 3\n"
    )
    read = project.read(folder)
    assert read == project.Project(
        folder.resolve(), "digits", "a.server:app", "a.client:app", {"lr": 0.1, "n": 3}, None
    )
    assert type(read.config["n"]) is int


def test_without_a_name_the_app_is_called_as_its_folder(write_app):
    assert project.read(write_app(COMPONENTS)).name == "app"


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(AppInvalid, match="there is no folder") as raised:
        project.read(tmp_path / "nowhere")
    assert "fedkube new" in raised.value.hint


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(AppInvalid, match="is no folder"):
        project.read(tmp_path / "file")


def test_a_folder_without_pyproject(tmp_path):
    with pytest.raises(AppInvalid, match=r"has no pyproject\.toml"):
        project.read(tmp_path)


@pytest.mark.parametrize("toml", ["a = ", "[tool", "a = 1\na = 2"])
def test_toml_that_cannot_be_parsed(write_app, toml):
    with pytest.raises(AppInvalid, match=r"pyproject\.toml is no valid TOML"):
        project.read(write_app(toml))


def test_toml_that_is_no_utf8(write_app):
    folder = write_app("")
    (folder / "pyproject.toml").write_bytes(b"a = '\xff'")
    with pytest.raises(AppInvalid, match="is no valid TOML"):
        project.read(folder)


@pytest.mark.parametrize(
    ("toml", "section"),
    [
        ("", "tool.flwr.app"),
        ("[tool.other]", "tool.flwr.app"),
        ("tool = 3", "tool.flwr.app"),
        ("[tool.flwr]\napp = 3", "tool.flwr.app"),
        ("[tool.flwr.app.config]\nlr = 1", "tool.flwr.app.components"),
    ],
)
def test_a_section_that_is_missing_is_named(write_app, toml, section):
    with pytest.raises(AppInvalid) as raised:
        project.read(write_app(toml))
    assert f"has no [{section}] section" in raised.value.message
    assert "serverapp" in raised.value.hint


@pytest.mark.parametrize("key", ["serverapp", "clientapp"])
def test_a_component_that_is_missing_is_named(write_app, key):
    toml = "\n".join(line for line in COMPONENTS.splitlines() if not line.startswith(key))
    with pytest.raises(AppInvalid, match=f"has no {key}"):
        project.read(write_app(toml))


@pytest.mark.parametrize("reference", ["server", "server:", ":app", "", "a.b.c"])
def test_a_reference_needs_a_module_and_an_attribute(write_app, reference):
    with pytest.raises(AppInvalid, match='is not of the form "module:attribute"'):
        project.read(write_app(COMPONENTS.replace("a.server:app", reference)))


def test_a_reference_must_be_a_string(write_app):
    with pytest.raises(AppInvalid, match="has no serverapp"):
        project.read(write_app(COMPONENTS.replace('"a.server:app"', "3")))


def test_nested_config_is_flattened_as_flower_does(write_app):
    toml = COMPONENTS + "[tool.flwr.app.config]\na = 1\n[tool.flwr.app.config.b.c]\nd = true\n"
    assert project.read(write_app(toml)).config == {"a": 1, "b.c.d": True}


@pytest.mark.parametrize("value", ["[1, 2]", "2024-01-01", "10:00:00"])
def test_a_config_value_of_another_kind_is_named(write_app, value):
    toml = COMPONENTS + f"[tool.flwr.app.config.deep]\nkey = {value}\n"
    with pytest.raises(AppInvalid, match=r"deep\.key is a .*strings, numbers and booleans"):
        project.read(write_app(toml))


def test_a_config_that_is_no_table(write_app):
    with pytest.raises(AppInvalid, match="is no table"):
        project.read(write_app("[tool.flwr.app]\nconfig = 3\n" + COMPONENTS))


def test_a_project_section_that_is_no_table_is_no_crash(write_app):
    """Any TOML file may come; whatever is wrong with it is said in a sentence."""
    try:
        name = project.read(write_app("project = 3\n" + COMPONENTS)).name
    except AppInvalid:
        return
    assert name == "app"


def test_the_older_federations_section_is_accepted(write_app):
    toml = (
        COMPONENTS
        + """
[tool.flwr.federations]
default = "local-simulation"

[tool.flwr.federations.local-simulation]
options.num-supernodes = 17

[tool.flwr.federations.remote]
address = "127.0.0.1:9093"
"""
    )
    assert project.read(write_app(toml)).clients == 17


@pytest.mark.parametrize(
    "federations",
    [
        "[tool.flwr.federations]",
        '[tool.flwr.federations]\ndefault = "gone"',
        '[tool.flwr.federations]\ndefault = "x"\nx = 3',
        '[tool.flwr.federations]\ndefault = "x"\n[tool.flwr.federations.x]\noptions = 3',
        '[tool.flwr.federations]\ndefault = "x"\n[tool.flwr.federations.x]\n'
        "options.num-supernodes = 0",
        '[tool.flwr.federations]\ndefault = "x"\n[tool.flwr.federations.x]\n'
        'options.num-supernodes = "many"',
        "[tool.flwr]\nfederations = 3",
    ],
)
def test_federations_that_say_no_number_of_clients_say_nothing(write_app, federations):
    assert project.read(write_app(federations + COMPONENTS)).clients is None


@pytest.mark.parametrize(
    "dependency", ["flwr[simulation]>=1.20", "flwr @ {root:parent:uri}", "flwr @ file:///x"]
)
def test_dependencies_are_left_alone(write_app, dependency):
    """Flower's own examples depend on `flwr @ {root:...}`, which hatch understands and pip not."""
    toml = f'[project]\nname = "a"\ndependencies = ["{dependency}"]\n' + COMPONENTS
    assert project.read(write_app(toml)).name == "a"


def test_keys_of_others_are_left_alone(write_app):
    toml = COMPONENTS + '[tool.flwr.app]\npublisher = "x"\nfab-include = []\n[tool.black]\na = []\n'
    assert project.read(write_app(toml)).serverapp == "a.server:app"


# ------------------------------------------------------------- overrides


def test_overrides_keep_the_types_of_toml():
    text = """n=5 lr=0.1 on=true off=false a="two words" b='x "y"' c=-3 d=1e-3 e=0x10"""
    parsed = project.parse_overrides([text])
    assert parsed == {
        "n": 5,
        "lr": 0.1,
        "on": True,
        "off": False,
        "a": "two words",
        "b": 'x "y"',
        "c": -3,
        "d": 1e-3,
        "e": 16,
    }
    assert [type(v) for v in (parsed["n"], parsed["lr"], parsed["on"])] == [int, float, bool]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a=adam", "adam"),
        ("a=1.2.3", "1.2.3"),
        ("a=b=c", "b=c"),
        ("a=", ""),
        ("a=/tmp/x.toml", "/tmp/x.toml"),
    ],
)
def test_a_bare_word_is_a_string(text, value):
    assert project.parse_overrides([text]) == {"a": value}


def test_later_words_win_and_blanks_do_not_matter():
    assert project.parse_overrides(["  a=1\t b=2 ", "a=3", ""]) == {"a": 3, "b": 2}


@pytest.mark.parametrize("word", ["lr", "=3", "a=1 lr", "lr = 3"])
def test_a_word_that_is_no_pair_is_refused(word):
    with pytest.raises(Usage, match="is not of the form key=value") as raised:
        project.parse_overrides([word])
    assert "num-server-rounds=5" in raised.value.hint


@pytest.mark.parametrize("quote", ["'", '"'])
def test_a_quote_that_is_never_closed_is_refused(quote):
    with pytest.raises(Usage, match=f"a {quote} is opened and never closed"):
        project.parse_overrides([f"a={quote}two words"])


@pytest.mark.parametrize("value", ["[1,2]", "{a=1}", "2024-01-01"])
def test_a_value_of_another_kind_is_refused(value):
    with pytest.raises(Usage, match="is no string, number or boolean"):
        project.parse_overrides([f"a={value}"])


def test_a_quote_that_is_escaped_does_not_end_the_string():
    assert project.parse_overrides([r'a="x\" y"']) == {"a": 'x" y'}


def test_overrides_from_a_file(tmp_path):
    file = tmp_path / "config.toml"
    file.write_text('a = 1\n[b]\nc = "x"\n')
    assert project.parse_overrides(["a=0", str(file), "d=2"]) == {"a": 1, "b.c": "x", "d": 2}


def test_a_file_that_is_missing(tmp_path):
    with pytest.raises(Usage, match=r"cannot read the run config file .*No such file"):
        project.parse_overrides([str(tmp_path / "gone.toml")])


@pytest.mark.parametrize("content", [b"a = ", b"a = '\xff'"])
def test_a_file_that_is_no_toml(tmp_path, content):
    file = tmp_path / "bad.toml"
    file.write_bytes(content)
    with pytest.raises(Usage, match=r"bad\.toml is no valid TOML"):
        project.parse_overrides([str(file)])


def test_a_file_with_a_value_of_another_kind(tmp_path):
    file = tmp_path / "list.toml"
    file.write_text("a = [1]")
    with pytest.raises(Usage, match="a is a list"):
        project.parse_overrides([str(file)])


# ------------------------------------------------------------- merging

DEFAULTS = {"num-server-rounds": 3, "lr": 0.1}


def test_overrides_win_over_defaults():
    assert project.merge(DEFAULTS, {"lr": 1}) == {"num-server-rounds": 3, "lr": 1}
    assert DEFAULTS["lr"] == 0.1


def test_a_key_that_is_misspelt_is_refused_with_the_right_one():
    with pytest.raises(Usage, match="no run config key 'num-server-round'") as raised:
        project.merge(DEFAULTS, {"num-server-round": 1})
    assert raised.value.hint == "did you mean 'num-server-rounds'?"


def test_a_key_unlike_any_is_refused_with_all_of_them():
    with pytest.raises(Usage) as raised:
        project.merge(DEFAULTS, {"zzz": 1})
    assert raised.value.hint == "the app's keys are: lr, num-server-rounds"


def test_an_app_without_config_says_so():
    with pytest.raises(Usage) as raised:
        project.merge({}, {"lr": 1})
    assert raised.value.hint == "the app's keys are: none at all"


def test_a_file_that_may_not_be_read_is_said_to_be_so(write_app, monkeypatch):
    folder = write_app("")

    def forbidden(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.read_text", forbidden)
    with pytest.raises(AppInvalid, match=r"cannot read .*pyproject.toml: Permission denied"):
        project.read(folder)
