"""Reading pairs out of archives and formats."""

import gzip
import io
import tarfile
import zipfile

import pytest

from recipes.data.archives import lines_of
from recipes.data.formats import detokeniser, read_pairs
from recipes.errors import RecipeError
from recipes.schema.recipe import TextSource

TEXT = "Größe\u2028eins\r\nzwei\n".encode()
LINES = ["Größe\u2028eins", "zwei"]


def tgz(path, members):
    with tarfile.open(path, "w:gz") as archive:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))


def pairs(source_format, texts, languages=("de", "en"), **options):
    source = TextSource({lang: lang for lang in languages}, format=source_format, **options)
    if isinstance(texts, str):
        source.text = dict.fromkeys(languages, "both")
        texts = {"both": texts}
    return list(read_pairs(source, lambda name: texts[name].split("\n"), languages))


def test_lines_of_files_and_members(tmp_path):
    (tmp_path / "plain").write_bytes(TEXT)
    (tmp_path / "text.gz").write_bytes(gzip.compress(TEXT))
    tgz(tmp_path / "a.tgz", {"./d/other": b"x", "./d/text": TEXT, "d/text.gz": gzip.compress(TEXT)})
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("d/text", TEXT)
    assert list(lines_of(tmp_path / "plain")) == LINES
    assert list(lines_of(tmp_path / "text.gz")) == LINES
    assert list(lines_of(tmp_path / "a.tgz", "d/text")) == LINES
    assert list(lines_of(tmp_path / "a.tgz", "d/text.gz")) == LINES
    assert list(lines_of(tmp_path / "a.zip", "d/text")) == LINES


def test_archive_errors_name_archive_and_member(tmp_path):
    tgz(tmp_path / "a.tgz", {"d/text": TEXT, "latin": "é".encode("latin-1")})
    whole = (tmp_path / "a.tgz").read_bytes()
    (tmp_path / "cut.tgz").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "cut.gz").write_bytes(gzip.compress(TEXT)[:-9])
    for name, member, message in (
        ("a.tgz", "d/txt", r"a.tgz has no member d/txt \(it has: d/text, latin\)"),
        ("a.tgz", "latin", "a.tgz: latin is not UTF-8"),
        ("cut.tgz", "d/text", "cut.tgz: d/text cannot be unpacked .*is the file complete"),
        ("cut.gz", None, "cut.gz cannot be unpacked"),
        ("none", None, "none does not exist"),
    ):
        with pytest.raises(RecipeError, match=message):
            list(lines_of(tmp_path / name, member))


def test_plain_sides_must_match():
    assert pairs("plain", {"de": "a\nb", "en": "c\nd"}) == [("a", ["c"]), ("b", ["d"])]
    several = pairs("plain", {"de": "a", "en": "c", "en2": "d"}, references=["en2"])
    assert several == [("a", ["c", "d"])]
    with pytest.raises(RecipeError, match="en ends after 1 sentences, de has more"):
        pairs("plain", {"de": "a\nb", "en": "c"})


def test_training_tags_of_iwslt_lose_their_metadata():
    text = "<url>http://x</url>\n<title>T</title>\n Ein < Satz. \n<reviewer></reviewer>\nZwei."
    found = pairs("iwslt-tags", {"de": text, "en": "<url>u</url>\nOne.\nTwo."})
    assert found == [("Ein < Satz.", ["One."]), ("Zwei.", ["Two."])]


def test_segments_of_sgml_and_xml():
    german = '<doc>\n<title>x</title>\n<seg id="1"> Eins &amp; zwei </seg>\n<seg id="2">a\nb</seg>'
    english = '<SEG id="1">One</SEG><seg id="2"></seg>'
    found = pairs("sgml", {"de": german, "en": english})
    assert found == [("Eins & zwei", ["One"]), ("a b", [""])]


def test_tmx_units_in_both_languages():
    unit = '<tu><tuv xml:lang="{}"><seg>{}</seg></tuv><tuv xml:lang="{}"><seg>{}</seg></tuv></tu>'
    body = "\n".join(
        [unit.format("en", "One <b>x</b>", "RO-ro", "Unu x"), unit.format("en", "a", "fr", "b")]
    )
    text = f'<?xml version="1.0"?>\n<tmx version="1.4">\n<header/>\n<body>\n{body}\n</body></tmx>'
    assert pairs("tmx", text, ("ro", "en")) == [("Unu x", ["One x"])]
    with pytest.raises(RecipeError, match="is not TMX"):
        pairs("tmx", "<tmx><body>\n<tu></body>")


def test_columns():
    text = "en 1\tde 1\tby\nen 2\tde 2\tby"
    found = pairs("tsv", text, columns={"en": 1, "de": 2})
    assert found == [("de 1", ["en 1"]), ("de 2", ["en 2"])]
    with pytest.raises(RecipeError, match="line 1 has 3 columns, not 4"):
        pairs("tsv", text, columns={"en": 1, "de": 4})


def test_several_references():
    assert pairs("tsv-references", "s\ta\tb\tc\nt\td") == [("s", ["a", "b", "c"]), ("t", ["d"])]
    with pytest.raises(RecipeError, match="line 1 has no reference"):
        pairs("tsv-references", "s")


def test_moses_tokens_are_put_together():
    english = "I &apos;m sure , &quot; yes &quot; ( really ) ."
    assert detokeniser("en")(english) == 'I\'m sure, "yes" (really).'


def test_a_line_that_would_fill_the_memory_is_an_error(tmp_path):
    with gzip.open(tmp_path / "bomb.gz", "wb", compresslevel=1) as file:
        file.write(b"short\n")
        for _ in range(11):
            file.write(b"a" * 1_000_000)
    message = "bomb.gz: line 2 has more than 10000000 characters"
    with pytest.raises(RecipeError, match=message):
        list(lines_of(tmp_path / "bomb.gz"))
