"""Search indexes: what is found, and what of a hostile file is refused."""

import os
import sqlite3
import stat
from concurrent.futures import ThreadPoolExecutor

import pytest

from rmas.errors import InputError
from rmas.tools.index import PASSAGE, Index, Passage, build, pieces
from rmas.tools.toolbox import ToolError

CITIES = [
    Passage("Paris", "The capital of France lies on the Seine."),
    Passage("Seine", "A river that runs through Paris and Rouen to the sea."),
    Passage("Berlin", "The capital of Germany lies on the Spree. Its zoo is famous for a panda."),
    Passage("São Paulo", "The largest city of Brazil, far larger than its capital."),
    Passage("", "A text without a title speaks of zebras."),
]


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("index") / "a #?% b.index"
    assert build(path, CITIES) == 5
    return path


@pytest.fixture(scope="module")
def index(path):
    return Index(path)


def titles(index: Index, query: str, count: int = 5) -> list[str]:
    return [found.title for found in index.search(query, count, 5.0)]


def test_any_word_may_match_and_titles_weigh_more(index):
    assert titles(index, "Paris") == ["Paris", "Seine"]
    assert titles(index, "seine river") == ["Seine", "Paris"]
    assert titles(index, "capital of France")[0] == "Paris"
    assert titles(index, "the capital city", 2) == titles(index, "the capital city")[:2]
    assert titles(index, "qwertz") == []
    assert index.search("zebra", 5, 5.0) == [CITIES[4]]


def test_forms_accents_and_case_do_not_matter(index):
    assert titles(index, "RIVERS run") == ["Seine"]
    assert titles(index, "sao paulo") == ["São Paulo"]


@pytest.mark.parametrize(
    "query",
    [
        'Berlin"',
        '"Berlin" AND (',
        "title:Berlin",
        "NEAR(Berlin, 2)",
        "Berlin*",
        "-Berlin ^zoo",
        "{title}: Berlin",
        "Berlin'; DROP TABLE passages; --",
        "Berlin\0zoo",
        "Berlin \ud800",
        "berlin " * 10_000,
        " ".join(f"w{n}" for n in range(31)) + " Berlin " + "x " * 9999,
    ],
)
def test_queries_are_words_not_commands(index, query):
    assert titles(index, query)[0] == "Berlin"


@pytest.mark.parametrize("query", ["", " ?! ", "\x00"])
def test_queries_without_words_are_told(index, query):
    with pytest.raises(ToolError, match="the query has no words"):
        index.search(query, 5, 5.0)


def test_searches_from_many_threads(index):
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda n: titles(index, ("Paris", "panda")[n % 2]), range(200)))
    assert found == [["Paris", "Seine"], ["Berlin"]] * 100


def test_a_search_ends_in_time(tmp_path):
    words = " ".join(f"w{n}" for n in range(100))
    build(tmp_path / "i", (Passage(f"w{n % 7}", words) for n in range(3000)))
    index = Index(tmp_path / "i")
    with pytest.raises(ToolError, match=r"the search took longer than 0\.0001 s"):
        index.search(words, 5, 0.0001)
    assert len(index.search("w1", 5, 10.0)) == 5


def test_open_indexes_stay_as_they_are_when_a_new_one_is_built(tmp_path):
    path = tmp_path / "i"
    build(path, CITIES)
    old = Index(path)
    build(path, [Passage("Oslo", "Another city.")])
    assert titles(old, "Paris Oslo") == ["Paris", "Seine"]
    assert titles(Index(path), "Paris Oslo") == ["Oslo"]
    assert os.listdir(tmp_path) == ["i"]


def test_a_build_that_fails_leaves_the_old_index(tmp_path):
    path = tmp_path / "i"
    build(path, CITIES)

    def broken():
        yield Passage("Oslo", "x")
        raise InputError("line 2")

    with pytest.raises(InputError, match="line 2"):
        build(path, broken())
    with pytest.raises(InputError, match="there are no documents"):
        build(path, [Passage("x", " \n")])
    assert titles(Index(path), "Paris") == ["Paris", "Seine"]
    assert os.listdir(tmp_path) == ["i"]
    with pytest.raises(InputError, match="no/i cannot be written: No such file or directory"):
        build(tmp_path / "no" / "i", CITIES)


def test_the_same_documents_give_the_same_answers_in_the_same_order(tmp_path):
    same = [Passage(f"t{n}", "one text") for n in range(20)]
    build(tmp_path / "i", same)
    assert titles(Index(tmp_path / "i"), "text") == [f"t{n}" for n in range(5)]


# --- passages ----------------------------------------------------------------------------------


def test_short_texts_are_one_passage():
    assert list(pieces("  a b\n\nc ")) == ["a b\n\nc"]
    assert list(pieces(" \n ")) == []


def test_texts_are_cut_where_it_hurts_least():
    assert list(pieces("aaaa aaaa\n\nbbbb. bbbb\nb", 16)) == ["aaaa aaaa", "bbbb. bbbb\nb"]
    assert list(pieces("aaaa aaaa\nbbbb. bbbb", 16)) == ["aaaa aaaa", "bbbb. bbbb"]
    assert list(pieces("aaaa aaa. bbbb bbbb", 16)) == ["aaaa aaa.", "bbbb bbbb"]
    assert list(pieces("aaaa aaaa aaaa aaaa", 16)) == ["aaaa aaaa aaaa", "aaaa"]
    assert list(pieces("a" * 40, 16)) == ["a" * 16, "a" * 16, "a" * 8]


def test_nothing_of_a_text_is_lost():
    text = "\n\n".join(f"Paragraph {n}. " + "word " * (n % 400) for n in range(300))
    cut = list(pieces(text))
    assert "".join("".join(cut).split()) == "".join(text.split())
    assert max(map(len, cut)) <= PASSAGE


# --- hostile files -----------------------------------------------------------------------------


def change(path, *commands: str) -> None:
    """Changes an index, which becomes one of those without a checksum."""
    older = ("PRAGMA application_id = 0x726D6173", "PRAGMA user_version = 1")
    with sqlite3.connect(path) as connection:
        for command in (*older, *commands):
            connection.execute(command)
    connection.close()


WRITABLE = "PRAGMA writable_schema = ON"


@pytest.mark.parametrize(
    "commands",
    [
        ["CREATE TABLE more (x)"],
        ["CREATE VIEW v AS SELECT 1"],
        ["CREATE TRIGGER t AFTER INSERT ON passages_content BEGIN SELECT 1; END"],
        ["PRAGMA user_version = 2"],
        ["PRAGMA application_id = 0"],
        ["DROP TABLE passages"],
        ["DROP TABLE passages", "CREATE VIRTUAL TABLE passages USING fts5(title, text)"],
        ["DROP TABLE passages", "CREATE TABLE passages (title, text)"],
        [
            "DROP TABLE passages",
            "CREATE VIEW passages AS SELECT 'a' AS title, hex(randomblob(9)) AS text",
        ],
        [
            WRITABLE,
            "UPDATE sqlite_schema SET sql = 'CREATE VIRTUAL TABLE passages_content USING "
            "fts5(c0, c1)' WHERE name = 'passages_content'",
        ],
        [WRITABLE, "UPDATE sqlite_schema SET sql = 'nonsense' WHERE name = 'passages_idx'"],
    ],
)
def test_other_schemas_are_refused(tmp_path, commands):
    path = tmp_path / "i"
    build(path, CITIES)
    change(path, *commands)
    with pytest.raises(InputError, match=r"i (is damaged or not a search index|cannot be read)"):
        Index(path)


@pytest.mark.parametrize("content", [b"", b"text\n" * 1000, b"SQLite format 3\0" + b"\xff" * 5000])
def test_other_files_are_refused(tmp_path, content):
    path = tmp_path / "i"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"python -m experiments\.build_search_index"):
        Index(path)


def test_missing_files_are_told(tmp_path):
    with pytest.raises(InputError, match=r"/i does not exist; make it with `python -m"):
        Index(tmp_path / "i")
    with pytest.raises(InputError, match="Is a directory"):
        Index(tmp_path)


def test_damaged_files_are_errors_of_the_search_or_found_at_once(tmp_path):
    build(tmp_path / "good", (Passage(f"t{n}", f"w{n} common " * 50) for n in range(300)))
    change(tmp_path / "good")
    good = (tmp_path / "good").read_bytes()
    told = 0
    for n in range(60):
        bad = bytearray(good)
        at = (n * 7919 * 61) % (len(bad) - 600) + 100
        bad[at : at + 500] = bytes((n * 37 + k) % 256 for k in range(500))
        path = tmp_path / "bad"
        path.write_bytes(bad if n % 2 else good[: at // 4096 * 4096 + n])
        try:
            index = Index(path)
            for query in ("common", "w7 w250", "t9"):
                assert all(isinstance(p.text, str) for p in index.search(query, 5, 5.0))
        except (InputError, ToolError):
            told += 1
    assert told > 20


def test_values_of_other_types_come_out_as_text(tmp_path):
    path = tmp_path / "i"
    build(path, CITIES)
    change(path, "UPDATE passages_content SET c0 = x'ff00', c1 = 7 WHERE id = 1")
    change(path, "UPDATE passages_content SET c1 = CAST(x'61ff' AS TEXT) WHERE id = 2")
    texts = [found.text for found in Index(path).search("paris", 5, 5.0)]
    assert sorted(texts) == ["7", "a\ufffd"]


def test_an_open_index_cannot_be_written_and_nothing_is_made_beside_it(tmp_path):
    path = tmp_path / "i"
    build(path, CITIES)
    (tmp_path / "i-journal").write_bytes(b"\xd9\xd5\x05\xf9\x20\xa1\x63\xd7" + b"\0" * 600)
    path.chmod(stat.S_IRUSR)
    before = path.read_bytes()
    index = Index(path)
    assert titles(index, "Paris") == ["Paris", "Seine"]
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        index._connection.execute("DELETE FROM passages")
    assert path.read_bytes() == before
    assert sorted(os.listdir(tmp_path)) == ["i", "i-journal"]
