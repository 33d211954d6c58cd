"""Configs: what is read, and how a mistake is explained."""

from pathlib import Path

import pytest

from infra.errors import ConfigError
from orchestrator.config import RunConfig, load_config

TEN_LINES = """\
name: birds
storage: runs
build:
  input: urls.parquet
  output: datasets/birds
train:
  data: ${build.output}
  model: diptych-tiny
  steps: 10
  lr: 5e-4
"""


@pytest.fixture
def config_file(tmp_path: Path) -> Path:
    path = tmp_path / "birds.yaml"
    path.write_text(TEN_LINES)
    return path


def problem(path: Path, *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(path, overrides)
    assert caught.value.exit_code == 2
    assert len(str(caught.value).splitlines()) <= 3
    return str(caught.value)


def test_ten_lines_are_a_whole_config(config_file: Path):
    config = load_config(config_file)
    assert config.train and config.build
    assert config.train.data == str(Path("datasets/birds").absolute())
    assert config.train.lr == 5e-4
    assert config.folder.url.endswith("runs/birds")


def test_the_name_defaults_to_that_of_the_file(tmp_path: Path):
    path = tmp_path / "owls.yaml"
    path.write_text("build: {input: a.csv, output: b}\n")
    assert load_config(path).name == "owls"


def test_overrides_win_and_references_see_them(config_file: Path):
    config = load_config(config_file, ["build.output=elsewhere", "train.steps=5"])
    assert config.train and config.train.data == str(Path("elsewhere").absolute()) and config.train.steps == 5


def test_the_resolved_config_reads_back_as_the_same(config_file: Path, tmp_path: Path):
    config = load_config(config_file)
    again = tmp_path / "again.yaml"
    again.write_bytes(config.to_yaml())
    assert load_config(again) == config


def test_an_unknown_key_is_named_with_its_line_and_the_nearest_known_one(config_file: Path):
    config_file.write_text(TEN_LINES.replace("steps: 10", "stepz: 10"))
    text = problem(config_file)
    assert "train.stepz" in text and "line 9" in text and "Did you mean steps?" in text


def test_a_wrong_value_is_named_with_what_is_allowed(config_file: Path):
    config_file.write_text(TEN_LINES + "  zero_stage: 7\n")
    text = problem(config_file)
    assert "train.zero_stage: got 7" in text and "line 11" in text and "less than or equal to 3" in text


def test_a_value_from_the_command_line_is_said_to_be_from_there(config_file: Path):
    assert "build.image_size: got 'large' (command line)" in problem(config_file, "build.image_size=large")


def test_a_key_given_twice_is_refused_with_both_lines(config_file: Path):
    config_file.write_text(TEN_LINES + "name: owls\n")
    text = problem(config_file)
    assert "line 1" in text and "line 11" in text


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("train: {data: '${build.outputs}', steps: 1}", "no key build.outputs"),
        ("storage: ${storage}\ntrain: {data: a, steps: 1}", "refers to itself"),
        ("train: {data: a}", "exactly one"),
        ("train: {steps: 3}", "train.data is missing"),
        ("train: {data: {pth: a}, steps: 3}", "Did you mean path?"),
        ("name: ../up\ntrain: {data: a, steps: 1}", "name: got '../up'"),
        ("build: {input: a.csv, output: b, proxy: 'http://me:hunter2@proxy:3128'}", "build.proxy: holds a password"),
        ("build: {input: 's3://b/a.csv?X-Amz-Signature=hunter2', output: b}", "build.input: holds a password"),
        (
            "build: {input: 's3://b/a.csv?AWSAccessKeyId=A&Signature=hunter2', output: b}",
            "build.input: holds a password",
        ),
        ("build: {input: 'https://b/a?x=1&X-Amz-Security-Token=hunter2', output: b}", "build.input: holds a password"),
        ("build: {input: 'https://b/a?access_token=hunter2', output: b}", "build.input: holds a password"),
        ("build: {input: 'https://b/a?api%5Fkey=hunter2', output: b}", "build.input: holds a password"),
        ("build: {input: a.csv, output: b, proxy: 'http://hunter2@proxy:3128'}", "build.proxy: holds a password"),
        (
            "train: {data: a, steps: 1, deepspeed: {comet: {api_key: hunter2}}}",
            "train.deepspeed.comet.api_key: holds a",
        ),
        (
            "train: {data: a, steps: 1, deepspeed: {x: [{secret: {is: hunter2}}]}}",
            "train.deepspeed.x.0.secret.is: holds a",
        ),
        ("- a\n- b", "holds a list"),
        ("train: [", "line 1"),
    ],
)
def test_each_mistake_is_one_short_error(tmp_path: Path, text: str, words: str):
    path = tmp_path / "wrong.yaml"
    path.write_text(text)
    assert words in problem(path) and "hunter2" not in problem(path)


LAUGHS = "a0: &a0 [lol]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 12))
MERGED = "a0: &a0 {x: 1}\n" + "".join(f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 10)}]}}\n" for n in range(1, 12))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("name: a\nstorage: b\x07", "wrong.yaml, line 2: the character #x0007 may not be there"),
        ("name: a\ncreated: 2026-13-45", "wrong.yaml, line 2: month must be in 1..12"),
        ("name: a\n2026-02-30: b", "wrong.yaml, line 2: day is out of range"),
        ("a: &a [*a]", "wrong.yaml, line 1: the value that begins here holds itself"),
        ("a: &a {<<: *a}", "wrong.yaml, line 1: the value that begins here holds itself"),
        ("name: a\ntrain: " + "[" * 120 + "]" * 120, "nested more than 100 deep"),
        ("[" * 100_000, "nested more than 100 deep"),
        (LAUGHS, "line 6: what begins here holds more than 100,000 values"),
        (MERGED, "line 6: what begins here holds more than 100,000 values"),
    ],
)
def test_what_yaml_itself_trips_over_is_told_with_its_line(tmp_path: Path, text: str, words: str):
    path = tmp_path / "wrong.yaml"
    path.write_text(text)
    assert words in problem(path)


def test_no_error_shows_a_secret_of_the_command_line(config_file: Path):
    for override in (
        "http://me:hunter2@proxy",
        "train.deepspeed.api_key=[hunter2",
        "build.proxy=[http://hunter2@proxy",
    ):
        assert "got a secret" in problem(config_file, override).lower()
        assert "hunter2" not in problem(config_file, override)


def test_what_only_looks_like_a_secret_is_taken(config_file: Path):
    load_config(
        config_file,
        [
            "build.output=hdfs://me@head/data",
            "train.deepspeed={max_tokens: 3, token: '', use_token: true}",
            "evaluate={zero_shot: {label_col: kind, classes: {signature: a signature, token: a token}}}",
        ],
    )


def test_no_key_of_the_config_is_taken_for_a_secret():
    from infra.secret_values import is_secret_name

    def names(schema: object) -> set[str]:
        if isinstance(schema, list):
            return set().union(*map(names, schema))
        if not isinstance(schema, dict):
            return set()
        return set(schema.get("properties", {})).union(*map(names, schema.values()))

    found = names(RunConfig.model_json_schema())
    assert len(found) > 100 and not [name for name in found if is_secret_name(name)]


@pytest.mark.parametrize("value", ["2026-02-30", "&a [*a]", "[" * 5000, "\x07", "{a: 1"])
def test_an_override_that_is_no_value_is_told(config_file: Path, value: str):
    assert "train.x: got " in problem(config_file, f"train.x={value}")


def test_a_missing_config_file_is_a_short_error(tmp_path: Path):
    assert "cannot be read" in problem(tmp_path / "nowhere.yaml")


def test_every_key_of_the_config_says_what_it_is_for():
    def undocumented(model: type, prefix: str) -> list[str]:
        fields = model.model_fields.items()
        return [f"{prefix}{name}" for name, field in fields if not field.description]

    sections = [
        RunConfig,
        *(RunConfig.model_fields[name].annotation.__args__[0] for name in ("build", "train", "evaluate", "export")),
    ]
    assert [name for section in sections for name in undocumented(section, f"{section.__name__}.")] == []


def test_what_is_kept_is_read_back_as_it_is_with_its_nulls(tmp_path: Path):
    path = tmp_path / "birds.yaml"
    path.write_text("train: {data: birds, steps: 3, checkpoint_every: null}\n")
    config = load_config(path)
    (tmp_path / "run.yaml").write_bytes(config.to_yaml())
    assert load_config(tmp_path / "run.yaml").train == config.train


def test_the_default_storage_is_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "owls.yaml").write_text("build: {input: a.csv, output: b}\n")
    monkeypatch.chdir(tmp_path)
    assert load_config(tmp_path / "owls.yaml").storage == str(tmp_path / "runs")
