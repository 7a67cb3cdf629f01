"""Downloads into the cache, from a server on this machine."""

import fcntl
import gzip
import hashlib
import os
import random
import socket
from concurrent.futures import ThreadPoolExecutor

import pytest
from http_server import FileServer

from recipes.data.download import default_cache_dir, fetch
from recipes.errors import RecipeError
from recipes.schema.recipe import DownloadedFile

BODY = random.Random(1).randbytes(300_000)
SHA256 = hashlib.sha256(BODY).hexdigest()


@pytest.fixture
def server():
    server = FileServer({"text.tgz": BODY})
    yield server
    server.close()


@pytest.fixture
def get(server, tmp_path):
    """Fetches text.tgz into tmp_path/cache; returns (path, checksum) and keeps what was said."""

    def fetch_it(sha256=SHA256, name="text.tgz"):
        file = DownloadedFile(f"{server.address}/{name}", sha256)
        fetch_it.said = []
        return fetch(name, file, tmp_path / "cache", fetch_it.said.append)

    return fetch_it


def left(tmp_path):
    return sorted(file.name for file in (tmp_path / "cache").iterdir())


def test_file_is_downloaded_once_and_then_taken_from_the_cache(get, server, tmp_path):
    path, found = get()
    assert (path.read_bytes(), found) == (BODY, SHA256)
    assert get.said == [f"  {server.address}/text.tgz -> {path}"]
    assert get() == (path, SHA256)
    assert get.said == []
    assert len(server.requests) == 1
    assert left(tmp_path) == ["text.tgz"]


def test_unknown_checksum_is_printed(get):
    _, found = get(sha256=None)
    assert found == SHA256
    assert get.said[-1].startswith(f"  text.tgz: the recipe gives no checksum; SHA-256 {SHA256}.")
    assert f"--set data.files.text.tgz.sha256={SHA256}" in get.said[-1]


def test_cut_off_download_leaves_nothing_behind(get, server, tmp_path):
    server.cut_after = 100_000
    with pytest.raises(RecipeError, match=r"the download was cut off .*run the same command again"):
        get()
    assert left(tmp_path) == []
    server.cut_after = None
    assert get()[0].read_bytes() == BODY


def test_a_server_need_not_say_how_long_a_file_is(get, server):
    server.length = False
    assert get()[0].read_bytes() == BODY


def test_an_archive_that_the_server_declares_as_compressed_stays_one(get, server):
    """As Apache does: what arrives is the file, not what is inside."""
    server.files["text.tgz"] = packed = gzip.compress(BODY)
    server.encoding = "gzip"
    path, _ = get(sha256=hashlib.sha256(packed).hexdigest())
    assert path.read_bytes() == packed


def test_wrong_checksum_names_both_and_keeps_nothing(get, server, tmp_path):
    wrong = "0" * 64
    with pytest.raises(RecipeError) as error:
        get(sha256=wrong)
    message = str(error.value)
    for part in (server.address, SHA256, wrong, "--data-dir", "--cache-dir"):
        assert part in message
    assert "\n" not in message
    assert left(tmp_path) == []


def test_file_put_into_the_cache_by_hand_is_checked(get, server, tmp_path):
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache/text.tgz").write_bytes(b"something else")
    with pytest.raises(RecipeError, match=r"remove the file to download"):
        get()
    (tmp_path / "cache/text.tgz").write_bytes(BODY)
    get()
    assert server.requests == []


def test_missing_file_is_the_servers_answer(get, tmp_path):
    with pytest.raises(RecipeError, match=r"the server answers 404 .*Expected file: gone.tgz"):
        get(name="gone.tgz")
    assert left(tmp_path) == []


def test_no_network_fails_at_once_with_address_file_and_way_out(tmp_path):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # bound, not listening: connections are refused
        address = f"http://127.0.0.1:{unused.getsockname()[1]}/text.tgz"
        with pytest.raises(RecipeError) as error:
            fetch("text.tgz", DownloadedFile(address, SHA256), tmp_path / "cache", print)
    message = str(error.value)
    for part in (address, "Expected file: text.tgz", SHA256, "--data-dir", "refused"):
        assert part in message
    assert "\n" not in message
    assert left(tmp_path) == []


def test_full_disk_is_named_and_gets_its_space_back(get, tmp_path, file_size_limit):
    with file_size_limit(100_000), pytest.raises(OSError, match="File too large") as error:
        get()
    assert error.value.filename == str(tmp_path / "cache/text.tgz")
    assert left(tmp_path) == []


def test_second_run_waits_for_the_first_and_takes_its_file(get, server, tmp_path):
    (tmp_path / "cache").mkdir()
    folder = os.open(tmp_path / "cache", os.O_RDONLY)
    fcntl.flock(folder, fcntl.LOCK_EX)
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(get)
        while not (hasattr(get, "said") and get.said):
            assert not waiting.done()
        (tmp_path / "cache/text.tgz").write_bytes(BODY)
        os.close(folder)
        assert waiting.result(timeout=10)[1] == SHA256
    assert get.said == [f"  waits for another run's download into {tmp_path / 'cache'}"]
    assert server.requests == []


def test_cache_follows_xdg(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_cache_dir() == tmp_path / "fairseq-sequence-training"
