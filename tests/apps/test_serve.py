import pytest

from deepstreaks_dask.apps.serve import is_loopback, serve
from deepstreaks_dask.errors import DeepStreaksError


@pytest.mark.parametrize("address", ["127.0.0.1", "::1", "localhost", "127.8.8.8"])
def test_addresses_of_this_machine_alone(address):
    assert is_loopback(address)


@pytest.mark.parametrize("address", ["0.0.0.0", "::", "192.0.2.7", "", "no such host.invalid"])
def test_addresses_that_others_reach_are_refused(address, archive):
    assert not is_loopback(address)
    with pytest.raises(DeepStreaksError, match="can be reached from other machines"):
        serve(archive, address=address)


def test_what_cannot_be_served_is_an_error_at_once(archive, tmp_path):
    with pytest.raises(DeepStreaksError, match="no dashboard 'explode'"):
        serve(archive, "explode")
    with pytest.raises(DeepStreaksError, match="no archive"):
        serve(tmp_path / "none.zarr")
