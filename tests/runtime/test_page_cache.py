"""What a cold load starts from."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from edgestill.runtime.page_cache import cached_share, evict, warm

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the page cache is Linux's")


def test_a_file_is_put_out_of_the_page_cache_and_read_back_into_it(tmp_path: Path) -> None:
    files = [tmp_path / "a", tmp_path / "empty"]
    files[0].write_bytes(os.urandom(3 << 20))
    files[1].touch()
    assert cached_share(files) == 1
    evict(files)
    share = cached_share(files)
    if share == 1:
        pytest.skip("this file system keeps its files in memory")
    assert share == 0
    warm(files)
    assert cached_share(files) == 1


def test_no_pages_have_no_share(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    assert cached_share([tmp_path / "empty"]) is None
