"""Two data sets, written once and read by all tests here."""

import pytest

from livetalk_jax.config import RunConfig
from livetalk_jax.configs import tiny
from tests.data import sets


@pytest.fixture(scope="session")
def talkvid_root(tmp_path_factory):
    return sets.make_talkvid(tmp_path_factory.mktemp("talkvid"))


@pytest.fixture(scope="session")
def speakervid_root(tmp_path_factory):
    return sets.make_speakervid(tmp_path_factory.mktemp("speakervid"))


@pytest.fixture(scope="session")
def stream():
    return RunConfig.from_config_dict(tiny.get_config()).stream
