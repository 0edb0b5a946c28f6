import socket

import pytest

from deepstreaks_dask.apps.server.addresses import is_loopback
from deepstreaks_dask.apps.server.options import Listener
from deepstreaks_dask.apps.server.serve import serve
from deepstreaks_dask.apps.server.site import listen
from deepstreaks_dask.errors import DeepStreaksError


@pytest.mark.parametrize("address", ["127.0.0.1", "::1", "localhost", "127.8.8.8"])
def test_addresses_of_this_machine_alone(address):
    assert is_loopback(address)


@pytest.mark.parametrize("address", ["0.0.0.0", "::", "192.0.2.7", "", "no such host.invalid"])
@pytest.mark.parametrize("app", ["explore", "campaign", "review"])
def test_nothing_is_served_to_others_without_encryption(address, app, archive):
    assert not is_loopback(address)
    with pytest.raises(DeepStreaksError, match="unencrypted"):
        serve(archive, app, listener=Listener(address=address))


@pytest.mark.parametrize("address", ["127.0.0.1", "0.0.0.0"])
@pytest.mark.parametrize("app", ["explore", "campaign", "review"])
def test_nothing_is_served_behind_a_proxy_without_a_log_in(address, app, archive):
    from helpers import write_run

    write_run(archive, "default", ["rb_a"], [[0.5]] * 150)
    listener = Listener(address=address, port=0, origin="https://review.example.org")
    with pytest.raises(DeepStreaksError, match="users add"):
        serve(archive, app, listener=listener)


def test_what_cannot_be_served_is_an_error_at_once(archive, tmp_path):
    with pytest.raises(DeepStreaksError, match="no dashboard 'explode'"):
        serve(archive, "explode")
    with pytest.raises(DeepStreaksError, match="no archive"):
        serve(tmp_path / "none.zarr")


def test_an_answer_waits_for_no_acknowledgement():
    listening, _ = listen("127.0.0.1", 0)
    with (
        listening,
        socket.create_connection(listening.getsockname()),
        listening.accept()[0] as accepted,
    ):
        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
