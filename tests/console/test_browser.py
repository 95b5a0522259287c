"""The report in a real browser: it runs its script, says nothing on the console, and asks the network for nothing."""

import re
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from kiban.console.report import write
from tests.console.made import small_programme

CHROMIUM = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium here: the report was NOT opened in a browser"),
]

# Chromium asks these by itself, whatever page is open.
ITS_OWN = re.compile(
    r"(clients2\.google\.com|update\.googleapis\.com|accounts\.google\.com|optimizationguide-pa\.googleapis\.com)[:/]"
)


class Proxy:
    """Takes every request that is made of the network, and notes its first line unless it is the browser's own."""

    def __init__(self) -> None:
        self.requests: list[str] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection:
                connection.settimeout(5)
                line = connection.recv(4096).split(b"\r\n")[0].decode(errors="replace")
                if line and not ITS_OWN.search(line):
                    self.requests.append(line)
                connection.sendall(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n")

    def close(self) -> None:
        self._listener.close()


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    proxy = Proxy()
    yield proxy
    proxy.close()


def opened(page: Path, proxy: Proxy, profile: Path, fragment: str = "", *flags: str) -> tuple[str, str]:
    """The document after its script ran, and what the console said."""
    command = [
        str(CHROMIUM),
        *(
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-background-networking",
            "--disable-component-update",
        ),
        *("--no-first-run", "--disable-sync", "--disable-default-apps", "--enable-logging=stderr", "--dump-dom"),
        f"--proxy-server={proxy.address}",
        "--proxy-bypass-list=<-loopback>",
        f"--user-data-dir={profile}",
        *flags,
        page.as_uri() + fragment,
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return done.stdout, "\n".join(line for line in done.stderr.splitlines() if "CONSOLE" in line)


def test_nothing_leaves_and_the_console_is_silent(tmp_path: Path, proxy: Proxy) -> None:
    page = write("small", small_programme(tmp_path / "store"), tmp_path / "report.html")
    document, console = opened(page, proxy, tmp_path / "profile")
    assert console == ""
    assert proxy.requests == []
    assert re.search(r'<html [^>]*data-show="(ja|en)"', document)


def test_the_language_stands_in_the_address(tmp_path: Path, proxy: Proxy) -> None:
    page = write("small", [], tmp_path / "report.html")
    for fragment, language, title in (
        ("#en", "en", "small: programme report"),
        ("#ja", "ja", "small：事業報告"),
        ("#ja/lineage", "ja", "small：事業報告"),
    ):
        document, console = opened(page, proxy, tmp_path / "profile", fragment)
        assert console == ""
        assert f'lang="{language}"' in document.split("<head>")[0] and "<title data-ja" in document
        assert f">{title}</title>" in document
        assert re.search(f'value="{language}"[^>]*aria-pressed="true"', document)
    by_browser, _ = opened(page, proxy, tmp_path / "japanese", "", "--lang=ja", "--accept-lang=ja")
    assert 'data-show="ja"' in by_browser


def test_this_test_would_see_a_request_and_a_broken_policy(tmp_path: Path, proxy: Proxy) -> None:
    page = write("small", [], tmp_path / "report.html")
    content = page.read_text(encoding="utf-8")
    leaking = re.sub(r"<meta http-equiv=[^>]*>", "", content).replace(
        "</main>", '<img src="http://leak.invalid/x"></main>'
    )
    (tmp_path / "leaking.html").write_text(leaking, encoding="utf-8")
    opened(tmp_path / "leaking.html", proxy, tmp_path / "profile")
    assert [request for request in proxy.requests if "leak.invalid" in request]
    proxy.requests.clear()
    guarded = content.replace("</main>", '<img src="http://leak.invalid/x"><p style="color: red">x</p></main>')
    (tmp_path / "guarded.html").write_text(guarded, encoding="utf-8")
    _, console = opened(tmp_path / "guarded.html", proxy, tmp_path / "profile")
    assert proxy.requests == []
    assert "Content Security Policy" in console
