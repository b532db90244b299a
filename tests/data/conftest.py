"""A web server on the loopback, an empty cache, and real data where there is any."""

import hashlib
import os
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple

import pooch
import pytest

from cdgm.data.files import File


class Server(NamedTuple):
    """Serves `pages`, path -> (status, declared length, body); `hits` are the calls."""

    url: str
    pages: dict
    hits: list
    close: object

    def publish(self, name, data, body=None, status=200):
        """Announce `data` as the file `name`, but answer with `body` if it is given."""
        self.pages['/' + name] = (status, len(data), data if body is None else body)
        return File(name, f'{self.url}/{name}', hashlib.sha256(data).hexdigest())


@pytest.fixture
def server(monkeypatch):
    pages, hits = {}, []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            hits.append(self.path)
            status, length, body = pages.get(self.path, (404, 0, b''))
            self.send_response(status)
            self.send_header('Content-Length', str(length))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args):
            pass

    httpd = ThreadingHTTPServer(('127.0.0.1', 0), Handler)
    thread = threading.Thread(target=httpd.serve_forever, args=(0.01,))
    thread.start()

    def close():
        httpd.shutdown()
        httpd.server_close()
        thread.join()

    monkeypatch.setenv('NO_PROXY', '127.0.0.1')
    yield Server(f'http://127.0.0.1:{httpd.server_port}', pages, hits, close)
    close()


@pytest.fixture
def cache(monkeypatch, tmp_path):
    """The user's cache directory, empty; and no CDGM_DATA_DIR."""
    monkeypatch.delenv('CDGM_DATA_DIR', raising=False)
    monkeypatch.setattr(pooch, 'os_cache', lambda project: tmp_path / project)
    return tmp_path / 'cdgm'


@pytest.fixture
def real_folder():
    """folder name -> that folder of CDGM_DATA_DIR; skips the test without it."""
    def find(folder):
        root = os.environ.get('CDGM_DATA_DIR')
        if not root or not (Path(root) / folder).is_dir():
            pytest.skip(f'CDGM_DATA_DIR has no {folder}/')
        return Path(root) / folder
    return find
