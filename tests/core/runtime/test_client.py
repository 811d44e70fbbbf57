"""`client`: calls and events over the real socket, and every way in which nobody can be there."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from bssci.core.center.rpc import (
    MAX_REQUEST,
    Event,
    InvalidRequestError,
    NotFoundError,
    RequestError,
)
from bssci.core.runtime import control
from bssci.core.runtime.client import CONNECT_TIMEOUT, START, UnreachableError, open_client
from bssci.core.runtime.control import serve_control
from bssci.core.runtime.feed import MAX_EVENTS
from bssci.core.runtime.notices import Notices
from bssci.core.runtime.websocket import HANDSHAKE_TIMEOUT, EndedError, WebSocket, accept_websocket

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

SENSOR, OTHER = "FCA84A030000127C", "FCA84A030000127D"
DOUBT = "what was asked last may be done or not: look at it when the service is there"


@pytest.fixture
def path() -> Iterator[Path]:
    """Where a socket may be; a test's own folder may have too long a name for one."""
    with tempfile.TemporaryDirectory(prefix="bssci-", dir="/tmp") as folder:
        yield Path(folder) / "control.sock"


class Service:
    """What there is to call."""

    def __init__(self) -> None:
        self.notices = Notices()
        self.called = trio.Event()
        self.scope = trio.CancelScope()

    async def serve(self, path: Path, *, task_status: trio.TaskStatus[None]) -> None:
        methods: dict[str, Callable[..., Awaitable[object]]] = {
            "echo": self.echo,
            "fail": self.fail,
            "hang": self.hang,
        }
        with self.scope:
            await serve_control(path, methods, self.notices.watch, task_status=task_status)

    async def echo(self, value: object = "nothing") -> object:
        return value

    async def fail(self, how: str) -> None:
        raise {
            "refused": RequestError("not now", hint="later"),
            "not found": NotFoundError("no such sensor"),
            "bug": KeyError("swordfish"),
        }[how]

    async def hang(self) -> None:
        self.called.set()
        await trio.sleep_forever()


@contextlib.asynccontextmanager
async def serving(path: Path) -> AsyncIterator[Service]:
    service = Service()
    async with trio.open_nursery() as nursery:
        await nursery.start(service.serve, path)
        yield service
        service.scope.cancel()


@contextlib.asynccontextmanager
async def pretending(
    path: Path, behave: Callable[[trio.SocketStream], Awaitable[None]]
) -> AsyncIterator[None]:
    """Somebody else listens at the socket."""
    bound = trio.socket.socket(trio.socket.AF_UNIX, trio.socket.SOCK_STREAM)
    await bound.bind(str(path))
    bound.listen()
    async with trio.open_nursery() as nursery:

        async def welcome(stream: trio.SocketStream) -> None:
            async with stream:
                await behave(stream)

        await nursery.start(trio.serve_listeners, welcome, [trio.SocketListener(bound)])
        yield
        nursery.cancel_scope.cancel()


def answering(*replies: str) -> Callable[[trio.SocketStream], Awaitable[None]]:
    """What says this to the first request, whatever it is."""

    async def converse(websocket: WebSocket) -> None:
        await websocket.receive()
        for reply in replies:
            await websocket.send(reply)
        await websocket.receive()

    async def behave(stream: trio.SocketStream) -> None:
        with contextlib.suppress(EndedError):
            async with accept_websocket(stream, max_message=999, farewell=(1000, "")) as websocket:
                await converse(websocket)

    return behave


async def unreachable(path: Path) -> tuple[str, str]:
    with pytest.raises(UnreachableError) as lost:
        async with open_client(path) as client:
            await client.call("echo")
    assert lost.value.exit_code == 3
    return str(lost.value), lost.value.hint


# --- calls -----------------------------------------------------------------------------------


async def test_a_call_gives_what_the_method_gives(path):
    async with serving(path), open_client(path) as client:
        assert await client.call("echo", value={"names": ["Grüße"]}) == {"names": ["Grüße"]}


async def test_a_parameter_that_is_none_is_left_out(path):
    async with serving(path), open_client(path) as client:
        assert await client.call("echo", value=None) == "nothing"


@pytest.mark.parametrize(
    ("method", "params", "kind", "message", "hint", "exit_code"),
    [
        ("fail", {"how": "refused"}, RequestError, "not now", "later", 1),
        ("fail", {"how": "not found"}, NotFoundError, "no such sensor", "", 5),
        (
            "fail",
            {"how": "bug"},
            RequestError,
            "a fault of the service; its log says more",
            "",
            1,
        ),
        (
            "echo",
            {"valeu": 1},
            InvalidRequestError,
            "echo: unknown parameter 'valeu'; its parameters: value",
            "",
            2,
        ),
        (
            "frobnicate",
            {},
            InvalidRequestError,
            "there is no method 'frobnicate'",
            "service.info lists the methods of this version",
            2,
        ),
    ],
)
async def test_what_the_service_refuses_is_raised_here(
    path, method, params, kind, message, hint, exit_code
):
    async with serving(path), open_client(path) as client:
        with pytest.raises(RequestError) as refused:
            await client.call(method, **params)
    error = refused.value
    assert (type(error), str(error), error.hint, error.exit_code) == (
        kind,
        message,
        hint,
        exit_code,
    )


async def test_what_is_raised_in_the_block_comes_out_as_it_is(path):
    async with serving(path):
        with pytest.raises(NotFoundError):
            async with open_client(path) as client:
                await client.call("fail", how="not found")


async def test_many_may_call_at_the_same_time(path):
    found = {}
    async with serving(path), open_client(path) as client, trio.open_nursery() as nursery:

        async def ask(number: int) -> None:
            found[number] = await client.call("echo", value=number)

        for number in range(200):
            nursery.start_soon(ask, number)
    assert found == {number: number for number in range(200)}


async def test_who_stops_waiting_may_call_again(path, autojump_clock):
    async with serving(path), open_client(path) as client:
        with trio.move_on_after(5) as patience:
            await client.call("hang")
        assert patience.cancelled_caught
        assert await client.call("echo", value=1) == 1


async def test_a_request_that_is_too_long_is_refused_before_it_is_sent(path):
    async with serving(path), open_client(path) as client:
        with pytest.raises(InvalidRequestError, match="at most 1048576 are taken"):
            await client.call("echo", value="x" * MAX_REQUEST)
        assert await client.call("echo", value=1) == 1


async def test_a_long_answer_arrives_whole(path):
    rows = 2_000 * [1_000 * "x"]

    async def listing() -> list[str]:
        return rows

    async with trio.open_nursery() as nursery:

        async def serve(*, task_status: trio.TaskStatus[None]) -> None:
            await serve_control(path, {"list": listing}, Notices().watch, task_status=task_status)

        await nursery.start(serve)
        async with open_client(path) as client:
            assert await client.call("list") == rows
        nursery.cancel_scope.cancel()


# --- events ----------------------------------------------------------------------------------


async def test_events_arrive_as_they_were_told(path):
    async with (
        serving(path) as service,
        open_client(path) as client,
        client.subscribe() as events,
    ):
        service.notices.tell("service", {"state": "ready"})
        event = await events.receive()
        assert event == Event("service", event.time, {"state": "ready"})
        assert await client.call("echo", value=1) == 1


async def test_each_subscription_gets_its_own(path):
    async with (
        serving(path) as service,
        open_client(path) as client,
        client.subscribe(["uplink"], sensor=SENSOR) as uplinks,
        client.subscribe(["station"], station=OTHER) as stations,
    ):
        service.notices.tell("uplink", {"sensor_eui": OTHER})
        service.notices.tell("uplink", {"sensor_eui": SENSOR})
        service.notices.tell("station", {"eui": OTHER})
        assert (await uplinks.receive()).data == {"sensor_eui": SENSOR}
        assert (await stations.receive()).data == {"eui": OTHER}


async def test_what_cannot_be_subscribed_to_is_refused(path):
    async with serving(path), open_client(path) as client:
        with pytest.raises(InvalidRequestError, match="no events of kind 'rain'"):
            async with client.subscribe(["rain"]):
                pass


async def test_after_the_block_events_are_passed_over(path):
    async with serving(path) as service, open_client(path) as client:
        async with client.subscribe():
            pass
        service.notices.tell("service", {})
        assert await client.call("echo", value=1) == 1


async def test_who_reads_slowly_may_still_call_and_is_told_what_was_lost(path):
    async with (
        serving(path) as service,
        open_client(path) as client,
        client.subscribe() as events,
    ):
        for number in range(MAX_EVENTS + 100):
            service.notices.tell("service", {"n": number})
            if number % 100 == 99:
                await wait_all_tasks_blocked(0.01)  # all of them have come here
                assert await client.call("echo", value=number) == number
        told = [await events.receive() for _ in range(MAX_EVENTS)]
    assert [each.data for each in told] == [
        *({"n": number} for number in range(MAX_EVENTS - 1)),
        {"lost": 101},
    ]


async def test_events_end_when_the_service_goes(path):
    async with (
        serving(path) as service,
        open_client(path) as client,
        client.subscribe() as events,
    ):
        service.notices.tell("service", {"n": 1})
        first = await events.receive()
        service.scope.cancel()
        assert [first.data, *[event.data async for event in events]] == [{"n": 1}]


# --- the service goes ------------------------------------------------------------------------


async def test_a_call_under_way_ends_when_the_service_goes(path):
    async with serving(path) as service, open_client(path) as client:
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def _():
                await service.called.wait()
                service.scope.cancel()

            with pytest.raises(UnreachableError) as lost:
                await client.call("hang")
        assert (str(lost.value), lost.value.hint) == (
            f"the connection to the service at {path} has ended: the service stops",
            DOUBT,
        )
        with pytest.raises(UnreachableError, match="has ended: the service stops"):
            await client.call("echo")


async def test_one_client_too_many_learns_why_it_is_sent_away(path, monkeypatch):
    monkeypatch.setattr(control, "MAX_CLIENTS", 1)
    async with serving(path), open_client(path) as first:
        assert await unreachable(path) == (
            f"the connection to the service at {path} has ended: "
            "1 clients are connected already; end one of them",
            DOUBT,
        )
        assert await first.call("echo", value=1) == 1


async def test_after_the_block_nothing_can_be_called(path):
    async with serving(path):
        async with open_client(path) as client:
            pass
        with pytest.raises(UnreachableError, match=r"has ended$"):
            await client.call("echo")


# --- nobody is there -------------------------------------------------------------------------


async def test_where_there_is_no_socket_no_service_runs(path):
    assert await unreachable(path) == (f"no service runs: {path} is not there", START)


async def test_what_a_killed_service_has_left_is_told_apart(path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as dead:
        dead.bind(str(path))
    assert await unreachable(path) == (
        f"no service runs: {path} is left over from one that has ended",
        START,
    )


async def test_what_is_no_socket_is_told_apart(path):
    path.write_text("dear diary")
    assert await unreachable(path) == (f"{path} is no socket", START)


@contextlib.contextmanager
def as_somebody_else() -> Iterator[None]:
    """The superuser may open everything."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)


async def test_who_may_not_open_it_is_told_who_may(path):
    async with serving(path):
        path.chmod(0)
        with as_somebody_else():
            assert await unreachable(path) == (
                f"{path} cannot be opened: permission denied",
                "run this as the user of the service",
            )


async def test_a_path_that_cannot_be_one_is_told(path):
    too_long = path.with_name(200 * "x")
    assert await unreachable(too_long) == (
        f"{too_long} cannot be opened: AF_UNIX path too long",
        START,
    )
    path.write_text("")
    assert await unreachable(path / "sock") == (
        f"{path / 'sock'} cannot be opened: Not a directory",
        START,
    )


async def test_who_does_not_come_to_the_door_is_not_waited_for_long(path, autojump_clock):
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as busy,
        contextlib.ExitStack() as crowd,
    ):
        busy.bind(str(path))
        busy.listen(0)
        for _ in range(3):
            other = crowd.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
            other.setblocking(False)
            other.connect_ex(str(path))
        assert await unreachable(path) == (
            f"the service at {path} does not answer within 5 s",
            "its log may say what it is busy with",
        )
        assert trio.current_time() == pytest.approx(CONNECT_TIMEOUT)


# --- somebody else is there ------------------------------------------------------------------


async def greet(stream: trio.SocketStream) -> None:
    await stream.send_all(b"220 mail.example ESMTP\r\n")


async def refuse(stream: trio.SocketStream) -> None:
    await stream.receive_some()
    await stream.send_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")


async def slam(stream: trio.SocketStream) -> None:
    await trio.aclose_forcefully(stream)


async def keep_silent(stream: trio.SocketStream) -> None:
    await trio.sleep_forever()


@pytest.mark.parametrize(
    ("behave", "fault", "seconds"),
    [
        (greet, "it ends before its handshake does", 0),
        (refuse, "it answers in HTTP, but does not speak WebSocket", 0),
        (slam, "it ends before its handshake does", 0),
        (keep_silent, "no handshake within 5 s", HANDSHAKE_TIMEOUT),
    ],
)
async def test_what_is_no_control_socket_is_told_apart(
    path, behave, fault, seconds, autojump_clock
):
    async with pretending(path, behave):
        assert await unreachable(path) == (
            f"{path} does not answer as a control socket of bssci: {fault}",
            "if the service is busy, try again; else see control.socket in its configuration",
        )
        assert trio.current_time() == seconds


def reply(**members: object) -> str:
    return json.dumps({"jsonrpc": "2.0"} | members)


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ("hello", "the answer is no JSON: Expecting value: line 1 column 1 (char 0)"),
        ("{}", "the answer is no JSON-RPC 2.0"),
        (
            reply(id=None, error={"code": -32700, "message": "what?"}),
            "it does not understand us: what?",
        ),
    ],
)
async def test_who_answers_nonsense_is_left(path, said, why):
    async with pretending(path, answering(said)):
        assert await unreachable(path) == (
            f"the connection to the service at {path} has ended: {why}",
            DOUBT,
        )


async def test_what_nobody_has_asked_for_is_passed_over(path):
    strange: list[Any] = [
        reply(id=99, result="?"),
        reply(id="a", error={"code": -32000, "message": "?"}),
        reply(method="weather", params={}),
        reply(method="event", params={"subscription": 7, "kind": "x", "time": 0, "data": {}}),
        reply(id=1, result="here"),
    ]
    async with pretending(path, answering(*strange)), open_client(path) as client:
        assert await client.call("echo") == "here"


async def test_a_subscription_without_a_number_is_nonsense_too(path):
    async with pretending(path, answering(reply(id=1, result="yes"))), open_client(path) as client:
        with pytest.raises(UnreachableError, match="does not say which subscription"):
            async with client.subscribe():
                pass


async def test_who_goes_while_we_ask_is_found_out(path):
    async def slam(stream: trio.SocketStream) -> None:
        with contextlib.suppress(EndedError):
            async with accept_websocket(stream, max_message=999, farewell=(1000, "")) as websocket:
                await websocket.receive()
                await trio.aclose_forcefully(stream)

    async with pretending(path, slam):
        assert await unreachable(path) == (
            f"the connection to the service at {path} has ended",
            DOUBT,
        )
