"""The package's own door: a public surface that costs nothing until it is used."""

import subprocess
import sys

import diff_quickfix
import pytest
from diff_quickfix import quickfix


def test_every_public_name_is_there_and_says_what_it_is():
    for name in diff_quickfix.__all__:
        found = getattr(diff_quickfix, name)
        assert found.__doc__, name
        assert found is getattr(quickfix, name, found)
        assert name in dir(diff_quickfix)


def test_an_unknown_name_is_an_attribute_error():
    assert not hasattr(diff_quickfix, "NODE_CLASS_MAPPINGS")
    with pytest.raises(AttributeError, match="'diff_quickfix' has no attribute 'compute'"):
        _ = diff_quickfix.compute


def test_the_door_alone_imports_nothing_heavy():
    code = (
        "import sys, diff_quickfix; hasattr(diff_quickfix, 'NODE_CLASS_MAPPINGS'); assert 'torch' not in sys.modules; "
        "from diff_quickfix import compute_edit; assert 'torch' in sys.modules and 'comfy' not in sys.modules"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
