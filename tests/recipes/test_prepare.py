"""From a recipe's sources to PREFIX.LANG: downloads, sacrebleu's test sets, --data-dir."""

import io
import json
import tarfile
import urllib.error

import pytest
from http_server import FileServer
from sacrebleu import dataset as sacrebleu_dataset
from test_formats import tgz

from recipes.data.origins import reference_files
from recipes.data.prepare import Preparation
from recipes.data.test_sets import DATASETS
from recipes.errors import ConfigError, RecipeError
from recipes.pipeline import run_recipe
from recipes.running.run import Run
from recipes.schema.reading import load_recipe
from recipes.steps.data import prepare_text
from recipes.text import read_lines


def tags(lines):
    return "".join(f"{line}\n" for line in ["<url>http://x</url>", *lines]).encode()


def xml(lines):
    segments = "".join(f'<seg id="{n}"> {line} </seg>\n' for n, line in enumerate(lines, 1))
    return f"<refset>\n<doc>\n{segments}</doc>\n</refset>\n".encode()


GERMAN = [f"Das ist Satz {n} ." for n in range(1, 11)]
ENGLISH = [f"This is Sentence {n} ." for n in range(1, 11)]
MEMBERS = {
    "d/train.de": tags([*GERMAN[:8], "", "viel zu lang für diese Regel hier"]),
    "d/train.en": tags([*ENGLISH[:8], "no source", "short"]),
    "d/one.de.xml": xml(GERMAN[8:9]),
    "d/one.en.xml": xml(ENGLISH[8:9]),
    "d/two.de.xml": xml(GERMAN[9:]),
    "d/two.en.xml": xml(ENGLISH[9:]),
}


@pytest.fixture
def server(tmp_path):
    tgz(tmp_path / "d.tgz", MEMBERS)
    server = FileServer({"d.tgz": (tmp_path / "d.tgz").read_bytes()})
    yield server
    server.close()


def iwslt(server, **changes):
    """The ``data:`` of a recipe that has all of its text in one archive."""
    test = [
        {"archive": "d.tgz", "text": {"de": f"d/{s}.de.xml", "en": f"d/{s}.en.xml"}} for s in
        ("one", "two")
    ]  # fmt: skip
    train = {"archive": "d.tgz", "text": {"de": "d/train.de", "en": "d/train.en"}}
    return {
        "tests": ["test"],
        "files": {"d.tgz": {"address": f"{server.address}/d.tgz"}},
        "sources": {
            "train": [{**train, "format": "iwslt-tags"}],
            "test": [{**source, "format": "sgml"} for source in test],
        },
        "cleaning": {"max_length_ratio": 2.0},
        "hold_out": {"every": 4},
        "lowercase": True,
        **changes,
    }


@pytest.fixture
def prepare(recipe_file, tmp_path):
    """Makes the text of a recipe with this ``data:``; returns the folder it is in."""

    def make(data, data_dir=None, dry_run=False):
        recipe = load_recipe(recipe_file(data=data))
        make.said = []
        options = {"dry_run": dry_run, "cache_dir": tmp_path / "cache"}
        run = Run(recipe, tmp_path / "work", data_dir, make.said.append, **options)
        prepare_text(run)
        make.references = {
            split: [f.name for f in reference_files(recipe, run.layout.text_dir, split)]
            for split in recipe.data.tests
        }
        return run.layout.text_dir

    return make


def write(folder, **files):
    folder.mkdir(exist_ok=True)
    for name, lines in files.items():
        text = "".join(f"{line}\n" for line in lines)
        (folder / name.replace("__", ".")).write_text(text, encoding="utf-8")
    return folder


SPLITS = {
    "train__de": ["a b", "c"], "train__en": ["A B", "C"], "valid__de": ["d"], "valid__en": ["D"],
    "test__de": ["e"], "test__en": ["E"],
}  # fmt: skip


def test_archive_becomes_clean_lower_cased_splits(prepare, server):
    text = prepare(iwslt(server))
    expected = [line.lower() for line in ENGLISH]
    assert read_lines(text / "train.en") == [*expected[:3], *expected[4:7]]
    assert read_lines(text / "valid.en") == [expected[3], expected[7]]
    assert read_lines(text / "test.en") == expected[8:]
    assert read_lines(text / "valid.de") == [GERMAN[3].lower(), GERMAN[7].lower()]
    summary = "10 pairs, taken out: 1 with an empty side, 1 with a length ratio above 2.0; 8 kept"
    assert f"  train: {summary}" in prepare.said
    counts = json.loads((text / "cleaning.json").read_text())
    assert counts == {"read": 10, "empty": 1, "max_length_ratio": 1, "kept": 8}


def test_second_run_needs_neither_server_nor_cache(prepare, server, tmp_path):
    prepare(iwslt(server))
    for file in (tmp_path / "cache").iterdir():
        file.unlink()
    prepare(iwslt(server))
    assert len(server.requests) == 1
    assert any(line.endswith("text: up to date") for line in prepare.said)


def test_changed_cleaning_is_redone_from_the_cache(prepare, server):
    prepare(iwslt(server))
    prepare(iwslt(server, cleaning={"max_length": 6}))
    assert any("text: redone: cleaning changed" in line for line in prepare.said)
    assert "1 longer than 6 words; 8 kept" in "".join(prepare.said)
    assert len(server.requests) == 1
    with pytest.raises(RecipeError, match=r"data.cleaning leaves no pair of train \(10 pairs, "):
        prepare(iwslt(server, cleaning={"max_length": 2}))


def test_dry_run_names_the_downloads_and_makes_none(prepare, server, tmp_path):
    files = {"d.tgz": {"address": f"{server.address}/d.tgz", "licence": "CC0"}}
    prepare(iwslt(server, files=files), dry_run=True)
    said = f"train: {server.address}/d.tgz, CC0, checksum unknown: the run prints it"
    assert any(line.endswith(said) for line in prepare.said)
    assert server.requests == []
    assert not (tmp_path / "work").exists()


def test_full_disk_while_writing_text_leaves_no_file(prepare, server, tmp_path, file_size_limit):
    text = tags(["ein Satz"] * 9000)
    server.files["d.tgz"] = pack(MEMBERS | {"d/train.de": text, "d/train.en": text})
    with file_size_limit(20_000), pytest.raises(OSError, match=r"File too large: .*work/text/"):
        prepare(iwslt(server, hold_out=None, lowercase=False, sources={
            **{s: [{"archive": "d.tgz", "text": {"de": "d/train.de", "en": "d/train.en"}}]
               for s in ("train", "valid", "test")}
        }))  # fmt: skip
    assert list((tmp_path / "work/text").iterdir()) == []


def pack(members):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def test_plain_files_in_data_dir_are_read_in_place(prepare, server, tmp_path):
    folder = write(tmp_path / "given", **SPLITS)
    assert prepare(iwslt(server, cleaning=None, lowercase=False), folder) == folder
    assert server.requests == []


def test_data_dir_takes_the_place_of_downloads(prepare, server, tmp_path):
    folder = write(tmp_path / "given", **SPLITS)
    text = prepare(iwslt(server), folder)
    assert read_lines(text / "train.en") == ["a b", "c"]
    assert read_lines(text / "valid.en") == ["d"]
    (folder / "valid.de").unlink()
    (folder / "train.de").unlink()
    with pytest.raises(RecipeError, match=r"must hold train.de and train.en, or d.tgz"):
        prepare(iwslt(server), folder)
    (folder / "d.tgz").write_bytes(server.files["d.tgz"])
    text = prepare(iwslt(server), folder)
    assert len(read_lines(text / "train.en")) == 6
    assert read_lines(text / "test.en") == ["e"]
    assert server.requests == []


def test_text_that_can_be_neither_downloaded_nor_found(prepare):
    source = {"text": {"de": "one.tsv", "en": "one.tsv"}, "format": "tsv-references"}
    with pytest.raises(RecipeError, match=r"--data-dir \(train.de, .*valid.en, one.tsv\)"):
        prepare({"sources": {"test": [source]}})


def test_several_references_of_every_kind(prepare, tmp_path):
    folder = write(
        tmp_path / "given", **SPLITS,
        set__tsv=["q\tone\ttwo\tthree", "r\tfour"],
        news__de=["s"], news__ref0__en=["x"], news__ref1__en=["y"],
        more__de=["t"], more__en=["u"], more__en__0=["u"], more__en__1=["v"],
    )  # fmt: skip
    data = {
        "tests": ["test", "set", "news", "more"],
        "sources": {
            "set": [{"text": {"de": "set.tsv", "en": "set.tsv"}, "format": "tsv-references"}],
            "news": [{
                "text": {"de": "news.de", "en": "news.ref0.en"}, "references": ["news.ref1.en"],
            }],
        },
    }  # fmt: skip
    text = prepare(data, folder)
    assert prepare.references == {
        "test": ["test.en"],
        "set": ["set.en.0", "set.en.1", "set.en.2"],
        "news": ["news.en.0", "news.en.1"],
        "more": ["more.en.0", "more.en.1"],
    }
    assert read_lines(text / "set.en") == ["one", "four"]
    assert [read_lines(text / f"set.en.{n}") for n in range(3)] == [
        ["one", "four"], ["two", ""], ["three", ""],
    ]  # fmt: skip
    assert read_lines(text / "news.en.1") == ["y"]
    assert read_lines(text / "more.en.1") == ["v"]


def test_named_references_keep_their_names(prepare, tmp_path):
    folder = write(tmp_path / "given", **SPLITS, a__en=["E"], b__en=["F"])
    data = {"references": {"test": ["a.en", "b.en"]}}
    assert prepare(data, folder) == folder
    assert prepare.references["test"] == ["a.en", "b.en"]
    text = prepare({**data, "lowercase": True}, folder)
    assert read_lines(text / "b.en") == ["f"]
    assert read_lines(text / "test.en") == ["e"]
    write(folder, b__en=["F", "G"])
    with pytest.raises(RecipeError, match=r"test\.de ends after 1 sentences, .*b\.en has more"):
        prepare({**data, "lowercase": True}, folder)


def test_text_in_subfolders_is_found_and_written_below_the_work_dir(prepare, tmp_path):
    folder = write(tmp_path / "given", **SPLITS)
    write(folder / "old", a__en=["E"], b__en=["F"], more__de=["G"], more__en=["H"])
    sources = {"train": [{"text": {"de": "old/more.de", "en": "old/more.en"}}]}
    data = {"references": {"test": ["old/a.en", "old/b.en"]}, "sources": sources, "lowercase": True}
    for lang in ("de", "en"):
        (folder / f"train.{lang}").unlink()
    text = prepare(data, folder)
    assert read_lines(text / "train.en") == ["h"]
    assert read_lines(text / "old/b.en") == ["f"]
    outside = tmp_path / "outside"
    (text / "old").rename(outside)
    (text / "old").symlink_to(outside)
    with pytest.raises(RecipeError, match=r"old/a.en leads out of .* remove the symbolic link"):
        prepare(data, folder)


@pytest.fixture
def test_set(tmp_path, monkeypatch):
    """A test set of sacrebleu, of two references, whose download is a stand-in."""

    def download(source, destination, extract_to=None, expected_md5=None):
        if download.error:
            raise download.error
        raw = tmp_path / "sacrebleu/raw"
        for name, text in (("src", "Ein  Satz \nZwei\n"), ("r0", "One\nTwo\n"), ("r1", "1\n2\n")):
            (raw / name).write_text(text)

    download.error = None
    monkeypatch.setattr("sacrebleu.dataset.base.download_file", download)
    data = {"name": "x", "data": ["http://x/x.tgz"], "md5": ["0"]}
    pairs = {"de-en": ["src", "r0", "r1"], "en-fr": ["src", "r0"]}

    class TwoReferences(sacrebleu_dataset.PlainTextDataset):
        def fieldnames(self, langpair):
            return ["src", "ref:A", "ref:B"][: len(self.langpairs[langpair])]

    known = TwoReferences(**data, langpairs=pairs)
    known._outdir, known._rawdir = str(tmp_path / "sacrebleu"), str(tmp_path / "sacrebleu/raw")
    monkeypatch.setitem(DATASETS, "news/two", known)
    return download


def test_sacrebleu_test_set_is_written_with_its_references(prepare, test_set, tmp_path):
    folder = write(tmp_path / "given", **{k: v for k, v in SPLITS.items() if "test" not in k})
    data = {"sources": {"test": [{"sacrebleu": "news/two"}]}}
    text = prepare(data, folder)
    assert read_lines(text / "test.de") == ["Ein  Satz", "Zwei"]
    assert prepare.references["test"] == ["test.en.0", "test.en.1"]
    assert read_lines(text / "test.en") == ["One", "Two"]
    assert read_lines(text / "test.en.1") == ["1", "2"]


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (urllib.error.URLError("no route"), "news/two de-en .http://x/x.tgz. .*no route.*--data"),
        (SystemExit(1), "wrong checksum"),
        (OSError(28, "No space left on device"), "cannot be read .*No space left on device"),
    ],
)
def test_sacrebleu_failure_is_one_line_and_leaves_nothing(
    prepare, test_set, tmp_path, error, message
):
    folder = write(tmp_path / "given", **{k: v for k, v in SPLITS.items() if "test" not in k})
    test_set.error = error
    with pytest.raises(RecipeError, match=message) as raised:
        prepare({"sources": {"test": [{"sacrebleu": "news/two"}]}}, folder)
    assert "\n" not in str(raised.value)
    assert [f for f in (tmp_path / "sacrebleu").rglob("*") if f.is_file()] == []


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({"sacrebleu": "wmt14/ful"}, "no test set 'wmt14/ful'; did you mean 'wmt14/full'"),
        ({"sacrebleu": "multi30k/2016"}, "has no language pair de-en .it has: en-fr, en-de"),
        ({"sacrebleu": "wmt14", "language_pair": "en-fr"}, "en-fr is not de and en"),
    ],
)
def test_unknown_test_set_is_told_before_anything_is_loaded(prepare, source, message):
    with pytest.raises(ConfigError, match=message):
        prepare({"sources": {s: [source] for s in ("train", "valid", "test")}}, dry_run=True)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"files": {"a/b": {"address": "http://x"}}}, "'a/b' becomes a file name"),
        ({"files": {"a": {"address": "ftp://x"}}}, "data.files.a.address: 'ftp://x'"),
        ({"files": {"a": {"address": "http://x", "sha256": "12"}}}, "64 hexadecimal digits"),
        ({"sources": {"test": [{}]}}, r"data.sources.test\[0\].text: no file for language 'de'"),
        ({"sources": {"test": [{"text": "talks"}]}}, r"test\[0\].text: .* write {lang} in"),
        ({"sources": {"test": [{"text": {"de": "a", "en": "b"}, "archive": "c"}]}},
         "'c' is not in data.files"),
        ({"sources": {"test": [{"text": {"de": "a", "en": "b"}, "format": "xml"}]}},
         "'xml' is not one of plain"),
        ({"sources": {"test": [{"text": {"de": "a", "en": "b"}, "format": "tmx"}]}},
         "holds both languages in one file"),
        ({"sources": {"test": [{"text": {"de": "a", "en": "a"}, "format": "tsv"}]}}, "columns"),
        ({"sources": {"test": [{"sacrebleu": "wmt14", "archive": "a"}]}}, "not both"),
        ({"references": {"tset": ["a"]}}, "'tset' is not a test set"),
        ({"hold_out": {"every": 1}}, "at least 2"),
        ({"hold_out": {"every": 9, "clusters": {"test": 2}}}, "either every or clusters"),
        ({"hold_out": {"every": 9, "several": "test"}}, "needs clusters"),
        ({"hold_out": {"clusters": {"tset": 5}}}, "'tset' is neither the valid split nor a test"),
        ({"hold_out": {"clusters": {"test": 0}}}, "at least 1 pair"),
        ({"cleaning": {"max_length_ratio": 0.5}}, "at least 1"),
        ({"cleaning": {"max_length": 0}}, "at least 1 word"),
    ],
)  # fmt: skip
def test_wrong_data_names_the_key(recipe_file, data, message):
    with pytest.raises(ConfigError, match=message):
        load_recipe(recipe_file(data=data))


def test_clusters_become_splits_without_a_leak_and_several_references(prepare, server):
    rows = [f"q{n % 40}\ta{n}\tby x" for n in range(100)] + ["lone\talone", "other\talone"]
    server.files["all.tgz"] = pack({"all.txt": "\n".join(rows).encode()})
    source = {
        "archive": "all.tgz",
        "text": {"de": "all.txt", "en": "all.txt"},
        "format": "tsv",
        "columns": {"de": 1, "en": 2},
    }
    data = {
        "tests": ["test", "set"],
        "files": {"all.tgz": {"address": f"{server.address}/all.tgz"}},
        "sources": {"train": [source]},
        "hold_out": {"clusters": {"valid": 10, "test": 20}, "several": "set"},
    }
    text = prepare(data)
    sides = {
        split: [set(read_lines(text / f"{split}.{lang}")) for lang in ("de", "en")]
        for split in ("train", "valid", "test")
    }
    for one, other in (("train", "valid"), ("train", "test"), ("valid", "test")):
        assert not any(a & b for a, b in zip(sides[one], sides[other], strict=True))
    counts = {split: len(read_lines(text / f"{split}.de")) for split in sides}
    assert counts == {"train": 72, "valid": 10, "test": 20}
    held_out = sides["valid"][0] | sides["test"][0]
    several = read_lines(text / "set.de")
    assert set(several) <= held_out
    assert len(several) == len(set(several)) > 5
    assert prepare.references["set"] == [f"set.en.{n}" for n in range(3)]
    assert all(read_lines(text / "set.en.1"))


def test_fewer_references_than_before_leave_no_old_ones(prepare, tmp_path):
    folder = write(tmp_path / "given", **SPLITS, more__tsv=["q\t1\t2\t3"])
    sources = [{"text": {"de": "more.tsv", "en": "more.tsv"}, "format": "tsv-references"}]
    data = {"tests": ["test", "more"], "sources": {"more": sources}}
    prepare(data, folder)
    assert len(prepare.references["more"]) == 3
    write(folder, more__tsv=["q\t1"])
    prepare(data, folder)
    assert prepare.references["more"] == ["more.en"]


def test_whole_recipe_from_an_archive(recipe_file, fake_fairseq, server, tmp_path, data_dir):
    """Prepared text runs through segmentation, training and scoring, with two references."""
    members = {f.name: f.read_bytes() for f in data_dir.iterdir()}
    server.files["all.tgz"] = pack(members | {"other.en": members["test.en"].upper()})
    sources = {
        s: [{"archive": "all.tgz", "text": {"de": f"{s}.de", "en": f"{s}.en"}}]
        for s in ("train", "valid", "test")
    }
    sources["test"][0]["references"] = ["other.en"]
    address = f"{server.address}/all.tgz"
    data = {"files": {"all.tgz": {"address": address}}, "sources": sources}
    recipe = load_recipe(recipe_file(data=data, decoding={"beams": [1]}))
    work = tmp_path / "work"
    run_recipe(Run(recipe, work, None, lambda line: None, cache_dir=tmp_path / "cache"))
    results = json.loads((work / "results.json").read_text())
    assert results["scored_text"]["test"] == "test.en.0, test.en.1"
    fake_fairseq.calls()
    said: list[str] = []
    run_recipe(Run(recipe, work, None, said.append, cache_dir=tmp_path / "cache"))
    assert fake_fairseq.calls() == []
    assert any(line.endswith("text: up to date") for line in said)


def test_settings_do_not_depend_on_where_files_come_from(recipe_file, server, tmp_path):
    """A mirror, or a licence that is written otherwise, is no reason to make the text anew."""
    mirrored = iwslt(server, files={"d.tgz": {"address": "https://mirror/d", "licence": "CC0"}})
    one, other = (
        Preparation(load_recipe(recipe_file(data=data)), tmp_path / "text", None, None, print)
        for data in (iwslt(server), mirrored)
    )
    assert one.settings() == other.settings()
