import pytest
import trio

from bssci.cli import broker_probe, checks
from tests.broker import MOSQUITTO, Mosquitto, free_port
from tests.cli.setups import Setup, listen, serve_tls
from tests.control import socket_folder


@pytest.fixture
def setup():
    with socket_folder() as folder:
        yield Setup(folder)


async def probe(setup, port, **settings):
    setup.set("mqtt", enabled=True, host="127.0.0.1", port=port, **settings)
    found = await broker_probe.probe_broker(checks.Case(setup.config(), None))
    return found.ok, found.seen


@pytest.mark.parametrize(
    ("answer", "ok", "words"),
    [
        (b"\x20\x02\x00\x00", True, "takes us as me"),
        (b"\x20\x02\x00\x04", False, "as me: it refuses user and password"),
        (b"\x20\x02\x00\x05", False, "as me: this user may not connect"),
        (b"\x20\x02\x00\x63", False, "as me: it refuses us with code 99"),
        (b"220 mail ESMTP", False, "it speaks no MQTT"),
        (b"", False, "it has ended the connection without an answer"),
    ],
)
async def test_what_the_broker_answers_is_told(setup, nursery, answer, ok, words):
    port = free_port()
    await listen(nursery, port, answer)
    setup.set("mqtt", enabled=True, host="127.0.0.1", port=port, username="me", password="hunter2")
    found = await broker_probe.probe_broker(checks.Case(setup.config(), None))
    assert (found.ok, words in found.seen) == (ok, True), found.seen
    assert "hunter2" not in found.seen + found.advice


def test_a_connect_packet_is_as_the_specification_has_it(monkeypatch):
    monkeypatch.setattr("secrets.token_hex", lambda size: "00000000")
    assert broker_probe.connect_packet("me", "pw").hex() == (
        "102900044d51545404c2003c0015" + b"bssci-doctor-00000000".hex() + "00026d6500027077"
    )
    assert broker_probe.connect_packet(None, None)[8:10] == b"\x04\x02"
    assert broker_probe.connect_packet("u" * 200, None)[1:3] == bytes([0x80 | 235 - 128, 1])


async def test_a_broker_that_does_not_answer_is_told(setup, nursery, monkeypatch):
    async def serve(stream):
        await trio.sleep_forever()

    monkeypatch.setattr(broker_probe, "CALL_TIMEOUT", 0.1)
    port = free_port()
    await nursery.start(trio.serve_tcp, serve, port)
    assert await probe(setup, port) == (
        False,
        f"127.0.0.1 port {port} does not answer within 0.1 s",
    )


async def test_a_broker_of_an_authority_that_is_not_known_is_told(setup, nursery):
    await serve_tls(nursery, setup, b"")
    ok, seen = await probe(setup, setup.port, tls=True)
    assert (ok, "its certificate is not accepted (mqtt.ca_file): " in seen) == (False, True)


async def test_a_broker_that_speaks_no_tls_is_told(setup, nursery):
    port = free_port()
    await listen(nursery, port, b"\x20\x02\x00\x05")
    ok, seen = await probe(setup, port, tls=True)
    assert (ok, ": TLS fails: " in seen) == (False, True)


async def test_without_a_broker_there_is_nothing_to_ask(setup):
    found = await broker_probe.probe_broker(checks.Case(setup.config(), None))
    assert found == checks.Finding("broker", True, "none is set (mqtt.enabled)")


@pytest.mark.broker
@pytest.mark.skipif(MOSQUITTO is None, reason="mosquitto is not there")
@pytest.mark.parametrize(
    ("lines", "ok", "words"),
    [
        (("allow_anonymous true",), True, " takes us without a user"),
        (("allow_anonymous false",), False, "without a user: this user may not connect"),
    ],
)
async def test_a_real_broker_is_asked(setup, tmp_path, lines, ok, words):
    broker = Mosquitto(tmp_path, *lines)
    broker.start()
    try:
        found, seen = await probe(setup, broker.port)
    finally:
        broker.kill()
    assert (found, words in seen) == (ok, True), seen
