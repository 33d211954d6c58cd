"""TSV with quoting and TSV without are both read as they were meant, and no row is lost."""

import csv
import io
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datapipe.tsv import TsvReader


def rows_of(text: str) -> list[list[str]]:
    """The rows below the header; empty lines have no fields."""
    _, *rows = TsvReader(io.StringIO(text, newline=""), "url")
    return [fields for fields in rows if fields]


def written(rows: list[list[str]], quoting: int, end: str) -> str:
    stream = io.StringIO(newline="")
    csv.writer(stream, delimiter="\t", quoting=quoting, lineterminator=end).writerows(rows)
    return stream.getvalue()


TEXTS = st.lists(st.sampled_from(["a", '"', " ", ",", "\t", "\n", "\r\n"]), max_size=12).map("".join)
QUOTING = st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL])


@given(
    st.lists(st.tuples(TEXTS, TEXTS), max_size=8), QUOTING, st.sampled_from(["\n", "\r\n"]), st.permutations([0, 1, 2])
)
def test_what_a_csv_writer_wrote_is_read_as_a_csv_reader_does(
    texts: list[tuple[str, str]], quoting: int, end: str, order: list[int]
):
    rows = [[f"http://a.example/{number}", *pair] for number, pair in enumerate(texts)]
    rows = [[row[place] for place in order] for row in [["url", "caption", "title"], *rows]]
    text = written(rows, quoting, end)
    _, *wanted = csv.reader(io.StringIO(text, newline=""), delimiter="\t", strict=True)
    assert rows_of(text) == [fields for fields in wanted if fields]


@given(
    st.lists(st.text(st.sampled_from('ab" '), max_size=8), max_size=8), st.sampled_from(["\n", "\r\n"]), st.booleans()
)
def test_captions_as_they_came_give_a_row_each(captions: list[str], end: str, ends_with_line: bool):
    rows = [["url", "caption"], *([f"http://a.example/{number}", text] for number, text in enumerate(captions))]
    text = end.join("\t".join(row) for row in rows) + (end if ends_with_line else "")
    read = rows_of(text)
    assert [row[0] for row in read] == [row[0] for row in rows[1:]]
    for (_, caption), (_, found) in zip(rows[1:], read, strict=True):
        assert found in (caption, caption[1:-1].replace('""', '"'))


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ('u://1\t"The Scream" by Munch\n', [["u://1", '"The Scream" by Munch']]),
        ('u://1\t"Hello there\nu://2\the said "\n', [["u://1", '"Hello there'], ["u://2", 'he said "']]),
        ('u://1\t"Hello there\njunk\nu://2\t"x"\n', [["u://1", '"Hello there'], ["junk"], ["u://2", "x"]]),
        ('u://1\t"Hello there\n\nu://2\t"no" x\n', [["u://1", '"Hello there'], ["u://2", '"no" x']]),
        ('"u://1"\t"The "big" Scream"\n', [["u://1", '"The "big" Scream"']]),
        ('u://1\t"never closed', [["u://1", '"never closed']]),
        ('u://1\t"one\ttwo ""three"""\n', [["u://1", 'one\ttwo "three"']]),
        ('u://1\t"one\n\ntwo\t2"\nu://2\tx', [["u://1", "one\n\ntwo\t2"], ["u://2", "x"]]),
        ('u://1\t"a\nb" c\nu://2\tx', [["u://1", '"a'], ['b" c'], ["u://2", "x"]]),
    ],
)
def test_a_quote_quotes_only_where_it_closes(text: str, rows: list[list[str]]):
    assert rows_of("url\tcaption\n" + text) == rows


def test_fields_that_begin_and_end_with_quotes_by_chance_are_told_by_their_number():
    assert rows_of('url\ta\tb\nu://1\t"Hello\the said "\n') == [["u://1", '"Hello', 'he said "']]
    assert rows_of('url\ta\tb\nu://1\t"Hello\the said "\tx\n') == [["u://1", "Hello\the said ", "x"]]


@pytest.mark.parametrize(
    "line",
    [
        'some ""words"" in a text that goes on and on' * 8,
        'closed"\t"and another one is open' + "x" * 300,
    ],
)
def test_a_text_of_many_lines_is_read_in_a_time_that_grows_as_they_do(line: str):
    """Not with their square, which would be minutes."""
    before = time.process_time()
    rows = rows_of('url\tcaption\nu://1\t"never closed\n' + f"{line}\n" * 9000)
    assert len(rows) == 9001 and time.process_time() - before < 5


def test_lines_are_counted_where_some_were_looked_at_twice():
    reader = TsvReader(io.StringIO('url\tcaption\nu://1\t"Hello\nu://2\tx\nu://3\t"a\nb"\nu://4\ty\n'), "url")
    assert [(reader.line_num, fields[0]) for fields in reader] == [
        (1, "url"),
        (2, "u://1"),
        (3, "u://2"),
        (5, "u://3"),
        (6, "u://4"),
    ]
