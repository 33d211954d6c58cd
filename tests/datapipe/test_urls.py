"""The URL list: every form of it is read, and what is wrong with it is named before anything starts."""

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from datapipe.config import BuildConfig
from datapipe.input_files import find_input_files
from datapipe.plan import InputFile
from datapipe.urls import check_input, input_identity, open_url_list, resolved
from infra.errors import ConfigError, InputError

ROWS = [
    {"url": "http://a.example/1", "caption": 'a "red", fox'},
    {"url": "http://a.example/2", "caption": "zwei\tFüchse"},
]


def config(tmp_path: Path, source: str, **settings: object) -> BuildConfig:
    return resolved(BuildConfig(input=str(tmp_path / source), output=str(tmp_path / "out"), **settings))


def opened(config: BuildConfig) -> list[InputFile]:
    return open_url_list(config, find_input_files(config.input))


def read_back(config: BuildConfig) -> list[dict]:
    return [row for file in opened(config) for row in pq.read_table(file.path).to_pylist()]


CSV = 'url,caption\nhttp://a.example/1,"a ""red"", fox"\nhttp://a.example/2,zwei\tFüchse\n'
TSV = 'url\tcaption\nhttp://a.example/1\t"a ""red"", fox"\nhttp://a.example/2\t"zwei\tFüchse"\n'


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("list.csv", CSV),
        ("list.tsv", TSV),
        ("windows.csv", "\ufeff" + CSV.replace("\n", "\r\n")),
        ("list.json", json.dumps(ROWS)),
        ("list.jsonl", "".join(json.dumps(row) + "\n" for row in ROWS)),
    ],
)
def test_every_text_format_reads_the_same(tmp_path: Path, name: str, text: str):
    (tmp_path / name).write_bytes(text.encode())
    (tmp_path / f"{name}.gz").write_bytes(gzip.compress(text.encode()))
    assert read_back(config(tmp_path, name)) == ROWS
    assert read_back(config(tmp_path, f"{name}.gz")) == ROWS


def test_quotes_of_captions_in_tsv_cost_no_row(tmp_path: Path):
    captions = ['"The Scream" by Munch', '"Hello there', 'he said "', '"quoted"']
    lines = [f"http://a.example/{row}\t{caption}\n" for row, caption in enumerate(captions)]
    (tmp_path / "list.tsv").write_text("url\tcaption\n" + "".join(lines))
    assert check_input(config(tmp_path, "list.tsv")) == 4
    assert [row["caption"] for row in read_back(config(tmp_path, "list.tsv"))] == [*captions[:3], "quoted"]


def test_parquet_is_read_where_it_lies(tmp_path: Path):
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "list.parquet")
    (file,) = opened(config(tmp_path, "list.parquet"))
    assert (file.path, file.rows) == (str(tmp_path / "list.parquet"), 2)
    assert not (tmp_path / "out").exists()


def test_plain_text_is_one_url_a_line_without_captions(tmp_path: Path):
    (tmp_path / "list.txt").write_text("http://a.example/1\r\n\nhttp://a.example/2")
    settings = config(tmp_path, "list.txt")
    assert settings.caption_col is None
    assert [row["url"] for row in read_back(settings)] == ["http://a.example/1", "http://a.example/2"]


def test_a_folder_and_a_glob_give_their_files_sorted(tmp_path: Path):
    for name in ("b.csv", "a.csv", "notes.md", "c.tsv"):
        (tmp_path / name).write_text("url\n")
    names = [path.name for path in find_input_files(str(tmp_path))]
    assert names == ["a.csv", "b.csv", "c.tsv"]
    assert [path.name for path in find_input_files(str(tmp_path / "?.csv"))] == ["a.csv", "b.csv"]


def test_json_rows_that_differ_all_come_through(tmp_path: Path):
    rows = [
        {"url": "u1"},
        {"caption": "late", "url": "u2", "n": 1},
        {"url": 3, "n": 2.5, "extra": {"a": [1]}},
        {"n": 2**70},
    ]
    (tmp_path / "odd.jsonl").write_text("\n".join(json.dumps(row) for row in rows) + '\n{"url": "\\ud800"}')
    assert read_back(config(tmp_path, "odd.jsonl")) == [
        {"url": "u1", "caption": None, "n": None, "extra": None},
        {"url": "u2", "caption": "late", "n": "1", "extra": None},
        {"url": "3", "caption": None, "n": "2.5", "extra": '{"a": [1]}'},
        {"url": None, "caption": None, "n": str(2**70), "extra": None},
        {"url": "?", "caption": None, "n": None, "extra": None},
    ]


def test_a_conversion_is_made_once_and_anew_when_the_list_changes(tmp_path: Path):
    (tmp_path / "list.csv").write_text(CSV)
    (first,) = opened(config(tmp_path, "list.csv"))
    written = Path(first.path).stat().st_mtime_ns
    (again,) = opened(config(tmp_path, "list.csv"))
    assert (again, Path(again.path).stat().st_mtime_ns) == (first, written)
    (tmp_path / "list.csv").write_text(CSV + "http://a.example/3,three\n")
    (changed,) = opened(config(tmp_path, "list.csv"))
    assert changed.rows == 3 and changed.path != first.path


def test_the_identity_is_of_the_content_and_not_of_the_place(tmp_path: Path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "list.csv").write_text(CSV)
    first, second = (input_identity(find_input_files(str(tmp_path / folder))) for folder in ("a", "b"))
    (tmp_path / "b" / "list.csv").write_text(CSV.replace("fox", "dog"))
    assert first == second != input_identity(find_input_files(str(tmp_path / "b")))


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("none.csv", None, "names no file"),
        ("list.docx", b"x", "ending that is not known"),
        ("bad.parquet", b"PAR1 no more", "cannot be read as Parquet"),
        ("empty.csv", b"", "holds no rows"),
        ("header.csv", b"url,caption\n", "holds no rows"),
        ("empty.txt", b"\n\n", "holds no rows"),
        ("quote.csv", b'url,caption\nu1,fine\nu2,"a"b\n', "line 3"),
        ("open.csv", b'url,caption\nu1,"never closed\n', "line 2"),
        ("wide.csv", b"url,caption\nu1,a,b\n", "line 2 has 3 fields"),
        ("wide.tsv", b'url\tcaption\nu1\t"a\tb\n', "line 2 has 3 fields"),
        ("quoted.tsv", b'"url\tcaption\nu1\ta\n', "cannot be read as tsv"),
        ("twice.csv", b"url,url\nu1,u2\n", "a column twice"),
        ("latin.csv", "url,caption\nu,Füchse\n".encode("latin-1"), "cannot be read as csv"),
        ("nul.csv", b"url,caption\nu1\x00,x\n", None),
        # Without a time: it is in the test's name, which two processes must find to be the same.
        ("cut.csv.gz", gzip.compress(b"url,caption\n" + b"u,c\n" * 9, mtime=0)[:-9], "cannot be read as csv"),
        ("plain.csv.gz", b"url,caption\nu,c\n", "cannot be read as csv"),
        # What follows the first block is no part of the compression.
        ("damaged.csv.gz", gzip.compress(b"", mtime=0)[:10] + b"\xff" * 99, "cannot be read as csv"),
        ("digits.jsonl", b'{"url": "u", "caption": "c", "n": ' + b"1" * 5000 + b"}\n", "line 1,"),
        ("digits.json", b'[{"url": "u", "caption": "c", "n": ' + b"1" * 5000 + b"}]", "cannot be read as json"),
        ("object.json", b'{"url": "u"}', "holds a JSON dict"),
        ("broken.jsonl", b'{"url": "u", "caption": "c"}\n{"url": \n', "line 2,"),
        ("list.jsonl", b"[1]\n", "line 1 is not an object"),
        ("deep.jsonl", b"[" * 100_000 + b"\n", "line 1,"),
    ],
)
def test_a_list_that_cannot_be_read_is_named_with_its_place(
    tmp_path: Path, name: str, content: bytes | None, words: str
):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    if words is None:  # a NUL in a URL is that row's own failure
        assert len(read_back(config(tmp_path, name))) == 1
        return
    with pytest.raises(InputError, match=words) as caught:
        opened(config(tmp_path, name))
    assert len(str(caught.value).splitlines()) == 3
    assert not list(tmp_path.glob("out/**/*.partial"))


def test_a_missing_column_is_named_with_the_nearest_one(tmp_path: Path):
    (tmp_path / "list.csv").write_text("URL,text\nu,c\n")
    with pytest.raises(ConfigError, match=r"no column 'url'") as caught:
        check_input(config(tmp_path, "list.csv"))
    assert "URL, text" in caught.value.allowed
    assert "build.url_col=URL" in caught.value.fix
    with pytest.raises(ConfigError, match="caption_col=null"):
        check_input(config(tmp_path, "list.csv", url_col="URL"))


def test_a_column_that_a_dataset_has_itself_is_refused(tmp_path: Path):
    (tmp_path / "list.csv").write_text("url,caption,status\nu,c,old\n")
    with pytest.raises(ConfigError, match="status"):
        check_input(config(tmp_path, "list.csv"))
    check_input(config(tmp_path, "list.csv", save_additional_columns=[]))


@pytest.mark.parametrize("name", ["url", "caption", "x"])
def test_a_column_that_is_there_twice_is_refused_unless_it_is_left_out(tmp_path: Path, name: str):
    table = pa.table([["u"], ["c"], ["x"], ["y"]], names=["url", "caption", "x", name])
    pq.write_table(table, tmp_path / "list.parquet")
    with pytest.raises(ConfigError, match=f"a column twice: {name}"):
        check_input(config(tmp_path, "list.parquet"))
    if name == "x":
        assert check_input(config(tmp_path, "list.parquet", save_additional_columns=[])) == 1


def test_one_column_may_be_both_url_and_caption(tmp_path: Path):
    pq.write_table(pa.table({"url": ["u"], "x": [1]}), tmp_path / "list.parquet")
    assert check_input(config(tmp_path, "list.parquet", caption_col="url")) == 1


def test_a_url_column_that_holds_no_text_is_refused(tmp_path: Path):
    pq.write_table(pa.table({"url": [["a", "b"]], "caption": ["c"]}), tmp_path / "list.parquet")
    with pytest.raises(ConfigError, match="holds list"):
        check_input(config(tmp_path, "list.parquet"))


def test_checking_writes_nothing(tmp_path: Path):
    (tmp_path / "list.csv").write_text(CSV)
    check_input(config(tmp_path, "list.csv"))
    assert [path.name for path in tmp_path.iterdir()] == ["list.csv"]
