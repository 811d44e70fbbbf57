"""`control`: a real Unix socket, and clients that behave well, badly, slowly or not at all."""

from __future__ import annotations

import contextlib
import json
import logging
import stat
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from bssci.core.center.rpc import (
    MAX_REQUEST,
    InvalidRequestError,
    NotFoundError,
    RequestError,
)
from bssci.core.protocol.errors import StorageError
from bssci.core.runtime import control as module
from bssci.core.runtime.control import (
    ANSWER_TIMEOUT,
    MAX_CALLS,
    describe_methods,
    serve_control,
)
from bssci.core.runtime.notices import MAX_NOTICES, Notices
from bssci.core.runtime.subscriptions import KINDS
from bssci.core.runtime.unix_socket import SocketError
from bssci.core.runtime.websocket import (
    HANDSHAKE_TIMEOUT,
    PART_TIMEOUT,
    EndedError,
    WebSocket,
    open_websocket,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

SENSOR, OTHER = "FCA84A030000127C", "FCA84A030000127D"
AVA, DIEHL = "70B3D59CD0000951", "000732000077E21D"
FAULT = "a fault of the service; its log says more"


@pytest.fixture
def path() -> Iterator[Path]:
    """Where a socket may be; a test's own folder may have too long a name for one."""
    with tempfile.TemporaryDirectory(prefix="bssci-", dir="/tmp") as folder:
        yield Path(folder) / "control.sock"


class Service:
    """What there is to call, and what has become of the calls."""

    def __init__(self) -> None:
        self.notices = Notices()
        self.door_bell = trio.Event()
        self.told: list[str] = []
        self.at_once = 0
        self.at_most = 0
        self._scope = trio.CancelScope()
        self._ended = trio.Event()

    async def serve(self, path: Path, *, task_status: trio.TaskStatus[None]) -> None:
        with self._scope:
            await serve_control(path, self.methods, self.notices.watch, task_status=task_status)
        self._ended.set()

    async def stop(self) -> None:
        self._scope.cancel()
        await self._ended.wait()

    @property
    def methods(self) -> dict[str, Callable[..., Awaitable[object]]]:
        return {
            "echo": self.echo,
            "wait": self.wait,
            "fail": self.fail,
            "list": self.list_,
            "strange": self.strange,
        }

    async def echo(self, value: object = None) -> object:
        return value

    async def wait(self, note: str = "") -> str:
        """Until the bell rings."""
        self.at_once += 1
        self.at_most = max(self.at_most, self.at_once)
        try:
            await self.door_bell.wait()
        except trio.Cancelled:
            self.told.append(f"cancelled {note}")
            raise
        finally:
            self.at_once -= 1
        return note

    async def fail(self, how: str) -> None:
        raise {
            "refused": RequestError("not now", hint="later"),
            "not found": NotFoundError("no such sensor"),
            "invalid": InvalidRequestError("bad tag"),
            "disk": StorageError("disk full"),
            "bug": KeyError("swordfish"),
        }[how]

    async def list_(self, count: int, size: int = 100) -> list[str]:
        return [size * "x"] * count

    async def strange(self) -> object:
        return {"a set": {1, 2}}


class Client:
    """One that says exactly what it is told."""

    def __init__(self, websocket: WebSocket) -> None:
        self.websocket = websocket
        self.ids = 0

    async def say(self, message: object) -> None:
        await self.websocket.send(message if isinstance(message, str) else json.dumps(message))

    async def hear(self) -> Any:
        return json.loads(await self.websocket.receive())

    async def ask(self, method: str, **params: object) -> Any:
        """The answer, without what every answer has."""
        self.ids += 1
        await self.say({"jsonrpc": "2.0", "id": self.ids, "method": method, "params": params})
        answer = await self.hear()
        assert (answer.pop("jsonrpc"), answer.pop("id")) == ("2.0", self.ids)
        return answer.get("result", answer.get("error"))

    async def event(self) -> Any:
        told = await self.hear()
        assert (told.pop("jsonrpc"), told.pop("method"), list(told)) == ("2.0", "event", ["params"])
        return told["params"]


@contextlib.asynccontextmanager
async def serving(path: Path) -> AsyncIterator[Service]:
    service = Service()
    async with trio.open_nursery() as nursery:
        await nursery.start(service.serve, path)
        yield service
        await service.stop()


@contextlib.asynccontextmanager
async def connected(path: Path) -> AsyncIterator[Client]:
    stream = await trio.open_unix_socket(path)
    async with open_websocket(stream, max_message=64 * 1024 * 1024) as websocket:
        yield Client(websocket)


def refused(code: int, message: str, *, exit_code: int = 2, hint: str = "") -> dict[str, object]:
    return {"code": code, "message": message, "data": {"exit": exit_code, "hint": hint}}


def error(call_id: object, code: int, message: str, **rest: Any) -> dict[str, object]:
    return {"jsonrpc": "2.0", "id": call_id, "error": refused(code, message, **rest)}


def result(call_id: object, value: object) -> dict[str, object]:
    return {"jsonrpc": "2.0", "id": call_id, "result": value}


async def farewell(client: Client) -> tuple[int, str]:
    with pytest.raises(EndedError) as ended:
        await client.hear()
    return ended.value.code, ended.value.reason


# --- calls -----------------------------------------------------------------------------------


async def test_a_call_is_answered(path):
    async with serving(path), connected(path) as client:
        assert await client.ask("echo", value={"a": ["Grüße", None]}) == {"a": ["Grüße", None]}


@pytest.mark.parametrize(
    ("how", "answer"),
    [
        ("refused", refused(-32000, "not now", exit_code=1, hint="later")),
        ("not found", refused(-32000, "no such sensor", exit_code=5)),
        ("invalid", refused(-32602, "bad tag")),
        ("disk", refused(-32000, "disk full", exit_code=1)),
    ],
)
async def test_a_refusal_says_why_and_what_to_do(path, how, answer):
    async with serving(path), connected(path) as client:
        assert await client.ask("fail", how=how) == answer


async def test_a_fault_of_ours_is_logged_once_and_the_service_goes_on(path, caplog):
    async with serving(path), connected(path) as client:
        assert await client.ask("fail", how="bug") == refused(-32603, FAULT, exit_code=1)
        assert await client.ask("echo", value=1) == 1
    [record] = caplog.records
    assert (record.levelname, record.message) == (
        "ERROR",
        "control: fail failed; this is our fault",
    )
    assert record.exc_info is not None
    assert record.exc_info[0] is KeyError


async def test_a_result_that_cannot_be_said_is_a_fault_of_ours(path, caplog):
    async with serving(path), connected(path) as client:
        assert await client.ask("strange") == refused(-32603, FAULT, exit_code=1)
    assert [each.message for each in caplog.records] == [
        "control: an answer failed; this is our fault"
    ]


async def test_wrong_parameters_are_told_in_words(path):
    async with serving(path), connected(path) as client:
        assert await client.ask("list", coutn=1) == refused(
            -32602,
            "list: unknown parameter 'coutn'; its parameters: count, size; "
            "parameter 'count' is missing, expected an integer",
        )


async def test_an_unknown_method_is_told(path):
    async with serving(path), connected(path) as client:
        assert await client.ask("sensors.frobnicate") == refused(
            -32601,
            "there is no method 'sensors.frobnicate'",
            hint="service.info lists the methods of this version",
        )


@pytest.mark.parametrize(
    ("message", "answer"),
    [
        ("{", "this is no JSON: Expecting property name enclosed in double quotes: "
              "line 1 column 2 (char 1)"),
        ("[" * 100_000, None),
    ],
    ids=["malformed", "nested too deep"],
)  # fmt: skip
async def test_what_is_no_json_is_answered_and_the_connection_goes_on(path, message, answer):
    async with serving(path), connected(path) as client:
        await client.say(message)
        heard = await client.hear()
        assert (heard["id"], heard["error"]["code"]) == (None, -32700)
        assert answer in (None, heard["error"]["message"])
        assert await client.ask("echo", value=1) == 1


async def test_a_binary_message_is_answered_and_the_connection_goes_on(path):
    async with serving(path), connected(path) as client:
        await client.websocket._connection.send_message(b"{}")
        assert await client.hear() == error(
            None, -32700, "a binary message; a text of JSON is expected"
        )
        assert await client.ask("echo", value=1) == 1


async def test_a_batch_is_answered_in_one_message_and_in_order(path):
    async with serving(path), connected(path) as client:
        await client.say(
            [
                {"jsonrpc": "2.0", "id": 1, "method": "echo", "params": [1]},
                {"jsonrpc": "2.0", "method": "echo", "params": [2]},
                3,
                {"jsonrpc": "2.0", "id": "d", "method": "list", "params": [2, 1]},
            ]
        )
        assert await client.hear() == [
            result(1, 1),
            error(None, -32600, "a request is an object"),
            result("d", ["x", "x"]),
        ]


async def test_nobody_is_answered_who_does_not_want_it(path):
    async with serving(path), connected(path) as client:
        await client.say({"jsonrpc": "2.0", "method": "echo", "params": [1]})
        await client.say({"jsonrpc": "2.0", "method": "fail", "params": ["not found"]})
        await client.say({"jsonrpc": "2.0", "method": "nonsense"})
        await client.say([{"jsonrpc": "2.0", "method": "echo"}])
        assert await client.ask("echo", value=7) == 7


async def test_two_calls_under_one_id_are_both_answered(path):
    async with serving(path), connected(path) as client:
        for value in ("a", "b"):
            await client.say({"jsonrpc": "2.0", "id": 1, "method": "echo", "params": [value]})
        heard = [await client.hear(), await client.hear()]
        assert sorted(each["result"] for each in heard) == ["a", "b"]
        assert [each["id"] for each in heard] == [1, 1]


# --- several at once -------------------------------------------------------------------------


async def test_a_call_that_waits_holds_up_no_other(path):
    async with serving(path) as service, connected(path) as client:
        await client.say({"jsonrpc": "2.0", "id": "w", "method": "wait", "params": ["done"]})
        assert await client.ask("echo", value=1) == 1
        service.door_bell.set()
        assert await client.hear() == result("w", "done")


async def test_of_one_client_only_so_many_calls_run_at_once_and_none_is_lost(path):
    async with serving(path) as service, connected(path) as client:
        for number in range(MAX_CALLS + 10):
            await client.say({"jsonrpc": "2.0", "id": number, "method": "wait"})
        await wait_all_tasks_blocked(0.05)
        assert service.at_once == MAX_CALLS
        async with connected(path) as other:
            assert await other.ask("echo", value=1) == 1
        service.door_bell.set()
        heard = {(await client.hear())["id"] for _ in range(MAX_CALLS + 10)}
        assert heard == set(range(MAX_CALLS + 10))
    assert service.at_most == MAX_CALLS


async def test_when_a_client_disappears_its_calls_are_cancelled_and_only_they(path):
    async with serving(path) as service, connected(path) as other:
        await other.say({"jsonrpc": "2.0", "id": 1, "method": "wait", "params": ["other"]})
        async with connected(path) as client:
            await client.say({"jsonrpc": "2.0", "id": 1, "method": "wait", "params": ["client"]})
            await wait_all_tasks_blocked(0.01)
            assert service.at_once == 2
            await trio.aclose_forcefully(client.websocket._connection._stream)
        await wait_all_tasks_blocked(0.01)
        assert service.told == ["cancelled client"]
        service.door_bell.set()
        assert await other.hear() == result(1, "other")


async def test_a_client_may_disappear_while_it_has_as_many_calls_as_it_can(path):
    async with serving(path) as service:
        async with connected(path) as client:
            for number in range(MAX_CALLS + 2):
                await client.say({"jsonrpc": "2.0", "id": number, "method": "wait"})
            await wait_all_tasks_blocked(0.01)
            await trio.aclose_forcefully(client.websocket._connection._stream)
        await wait_all_tasks_blocked(0.01)
        assert (service.at_once, len(service.told)) == (0, MAX_CALLS)


async def test_hundreds_of_clients_in_a_row_leave_nothing_behind(path):
    async with serving(path) as service:
        tasks = trio.lowlevel.current_statistics().tasks_living
        for number in range(300):
            stream = await trio.open_unix_socket(path)
            if number % 2:
                await stream.send_all(b"GET / HTTP/1.1\r\n")
            await stream.aclose()
        async with connected(path) as client:
            assert await client.ask("echo", value=1) == 1
        await wait_all_tasks_blocked(0.05)
        assert trio.lowlevel.current_statistics().tasks_living == tasks
        assert not service.notices.are_watched


# --- events ----------------------------------------------------------------------------------


async def test_events_follow_the_answer_with_the_number_of_their_subscription(path):
    async with serving(path) as service, connected(path) as client:
        assert await client.ask("events.subscribe") == {"subscription": 1}
        service.notices.tell("service", {"state": "ready"})
        event = await client.event()
        assert event.pop("time") > 1.7e9
        assert event == {"subscription": 1, "kind": "service", "data": {"state": "ready"}}


async def test_what_happens_once_the_answer_is_under_way_is_not_missed(path):
    async with serving(path) as service, connected(path) as client:
        await client.say({"jsonrpc": "2.0", "id": 1, "method": "events.subscribe"})
        while not service.notices.are_watched:  # knows nothing of tests
            await trio.lowlevel.checkpoint()
        service.notices.tell("service", {"number": 1})
        assert await client.hear() == result(1, {"subscription": 1})
        assert (await client.event())["data"] == {"number": 1}


UPLINK: dict[str, object] = {
    "n": 0,
    "sensor_eui": SENSOR,
    "bs_eui": AVA,
    "receptions": [{"bs_eui": AVA}, {"bs_eui": DIEHL}],
}
HAPPENED: list[tuple[Any, dict[str, object]]] = [
    ("uplink", UPLINK),
    ("uplink", {"n": 1, "sensor_eui": OTHER, "bs_eui": AVA, "receptions": [{"bs_eui": AVA}]}),
    ("station", {"n": 2, "eui": AVA, "state": "online"}),
    ("station", {"n": 3, "eui": DIEHL, "state": "online"}),
    ("sensor", {"n": 4, "eui": SENSOR, "event": "attached", "bs_eui": DIEHL}),
    ("sensor", {"n": 5, "eui": OTHER, "event": "added"}),
    ("downlink", {"n": 6, "eui": SENSOR, "bs_eui": AVA}),
    ("service", {"n": 7}),
]


@pytest.mark.parametrize(
    ("wanted", "told"),
    [
        ({}, [0, 1, 2, 3, 4, 5, 6, 7]),
        ({"kinds": []}, [0, 1, 2, 3, 4, 5, 6, 7]),
        ({"kinds": ["uplink", "downlink"]}, [0, 1, 6]),
        ({"sensor": SENSOR}, [0, 4, 6]),
        ({"sensor": "fc-a8-4a-03-00-00-12-7d", "kinds": ["sensor"]}, [5]),
        ({"station": DIEHL}, [0, 3, 4]),
        ({"station": AVA, "sensor": SENSOR}, [0, 6]),
    ],
)
async def test_only_what_is_wanted_is_told(path, wanted, told):
    async with serving(path) as service, connected(path) as client:
        await client.ask("events.subscribe", **wanted)
        for kind, data in [*HAPPENED, *HAPPENED]:
            service.notices.tell(kind, data)
        heard = [(await client.event())["data"]["n"] for _ in range(2 * len(told))]
        assert heard == told + told


async def test_each_subscription_of_a_client_is_told_apart(path):
    async with serving(path) as service, connected(path) as client:
        assert await client.ask("events.subscribe", kinds=["uplink"]) == {"subscription": 1}
        assert await client.ask("events.subscribe", kinds=["service"]) == {"subscription": 2}
        service.notices.tell("service", {})
        service.notices.tell("uplink", {})
        heard = [await client.event(), await client.event()]
        assert {each["subscription"]: each["kind"] for each in heard} == {
            1: "uplink",
            2: "service",
        }


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        (
            {"kinds": ["uplinks"]},
            "events.subscribe: there are no events of kind 'uplinks', "
            "only of uplink, station, sensor, downlink, service",
        ),
        (
            {"sensor": "AB"},
            "'AB' is not an EUI: 2 hexadecimal digits found, 16 expected",
        ),
        (
            {"kinds": "uplink"},
            "events.subscribe: parameter 'kinds': found a text, expected a list of texts or null",
        ),
    ],
)
async def test_what_cannot_be_subscribed_to_is_told(path, wanted, message):
    async with serving(path) as service, connected(path) as client:
        assert await client.ask("events.subscribe", **wanted) == refused(-32602, message)
        assert not service.notices.are_watched


async def test_names_are_resolved_by_whoever_knows_them(path):
    def resolve(kind: str, text: str) -> int:
        if (kind, text) != ("sensor", "cellar"):
            raise NotFoundError(f"no {kind} is called {text!r}")
        return int(SENSOR, 16)

    notices = Notices()
    async with trio.open_nursery() as nursery:

        async def serve(*, task_status: trio.TaskStatus[None]) -> None:
            await serve_control(path, {}, notices.watch, resolve=resolve, task_status=task_status)

        await nursery.start(serve)
        async with connected(path) as client:
            assert await client.ask("events.subscribe", station="roof") == refused(
                -32000, "no station is called 'roof'", exit_code=5
            )
            assert await client.ask("events.subscribe", sensor="cellar") == {"subscription": 1}
            notices.tell("uplink", {"sensor_eui": OTHER})
            notices.tell("uplink", {"sensor_eui": SENSOR})
            assert (await client.event())["data"] == {"sensor_eui": SENSOR}
        nursery.cancel_scope.cancel()


async def test_a_client_has_only_so_many_subscriptions(path, monkeypatch):
    monkeypatch.setattr(module, "MAX_SUBSCRIPTIONS", 1)
    async with serving(path), connected(path) as client:
        assert await client.ask("events.subscribe") == {"subscription": 1}
        assert await client.ask("events.subscribe") == refused(
            -32000,
            "this client has 1 subscriptions already",
            exit_code=1,
            hint="a subscription ends with its connection: open another one",
        )


async def test_nobody_is_watched_for_any_more_when_a_client_has_gone(path):
    async with serving(path) as service:
        async with connected(path) as client:
            await client.ask("events.subscribe")
            assert service.notices.are_watched
        await wait_all_tasks_blocked(0.01)
        assert not service.notices.are_watched


async def test_a_client_that_reads_slowly_loses_events_and_is_told_how_many(path):
    async with serving(path) as service, connected(path) as slow, connected(path) as quick:
        for client in (slow, quick):
            await client.ask("events.subscribe", sensor=SENSOR)
        total = 0
        for _ in range(6):
            for _ in range(MAX_NOTICES // 4):
                # What nobody wants is not lost to anybody.
                service.notices.tell("uplink", {"sensor_eui": OTHER})
                service.notices.tell(
                    "uplink", {"sensor_eui": SENSOR, "n": total, "pad": 2_000 * "x"}
                )
                assert (await quick.event())["data"]["n"] == total
                total += 1
        service.notices.tell("service", {})
        heard, lost = await account(slow, 0, total)
        assert (heard > MAX_NOTICES, lost > 0) == (True, True)


async def account(client: Client, begin: int, end: int) -> tuple[int, int]:
    """How many of the numbered events come and how many are lost; what comes is in order."""
    heard = lost = 0
    while (next_one := begin + heard + lost) < end:
        event = await client.event()
        if event["kind"] == "gap":
            lost += event["data"]["lost"]
        else:
            assert event["data"]["n"] == next_one
            heard += 1
    return heard, lost


async def test_what_was_lost_before_it_came_to_us_is_told_too(path):
    async with serving(path) as service, connected(path) as client:
        await client.ask("events.subscribe", kinds=["station"])
        for number in range(MAX_NOTICES + 500):
            service.notices.tell("station", {"n": number})
        await client.event()  # from here on there is room again
        service.notices.tell("station", {"n": MAX_NOTICES + 500})
        _, lost = await account(client, 1, MAX_NOTICES + 501)
        assert lost >= 500


# --- the table of methods --------------------------------------------------------------------


async def test_the_methods_are_described_with_those_that_are_added_here():
    async def get(eui: str, *, reveal: bool = False) -> None: ...

    optional = {"required": False, "default": None}
    assert describe_methods({"sensors.get": get}) == {
        "sensors.get": {
            "eui": {"type": "str", "required": True, "default": None},
            "reveal": {"type": "bool", "required": False, "default": False},
        },
        "events.subscribe": {
            "kinds": {"type": "list[str] | None"} | optional,
            "sensor": {"type": "str | None"} | optional,
            "station": {"type": "str | None"} | optional,
        },
    }
    assert KINDS == ("uplink", "station", "sensor", "downlink", "service")


async def test_a_method_that_cannot_be_called_is_found_at_the_start(path):
    async def wrong(eui: bytes) -> None: ...

    with pytest.raises(TypeError):
        await serve_control(path, {"wrong": wrong}, Notices().watch)
    assert not path.exists()


# --- the door --------------------------------------------------------------------------------


async def test_the_socket_is_its_owners_and_goes_with_the_service(path):
    async with serving(path):
        assert stat.filemode(path.stat().st_mode) == "srw-------"
    assert not path.exists()


async def test_a_second_service_finds_the_door_taken(path):
    async with serving(path), connected(path) as client:
        with pytest.raises(SocketError, match="another process listens"):
            await serve_control(path, {}, Notices().watch)
        assert await client.ask("echo", value=1) == 1


async def test_one_client_too_many_is_told_so_and_may_come_again(path, monkeypatch, caplog):
    monkeypatch.setattr(module, "MAX_CLIENTS", 2)
    async with serving(path), connected(path):
        async with connected(path), connected(path) as third:
            assert await farewell(third) == (
                1013,
                "2 clients are connected already; end one of them",
            )
        await wait_all_tasks_blocked(0.01)
        async with connected(path) as third:
            assert await third.ask("echo", value=1) == 1
    assert [each.message for each in caplog.records] == [
        "control: a client is sent away, 2 are connected"
    ]


async def test_who_crowds_the_door_keeps_nobody_inside_from_working(path, monkeypatch):
    monkeypatch.setattr(module, "MAX_CONNECTIONS", 3)
    async with serving(path), connected(path) as client, contextlib.AsyncExitStack() as crowd:
        for _ in range(10):
            await crowd.enter_async_context(await trio.open_unix_socket(path))
        await wait_all_tasks_blocked(0.01)
        assert await client.ask("echo", value=1) == 1
        async with await trio.open_unix_socket(path) as one_more:
            assert await one_more.receive_some() == b""


async def test_raw_bytes_that_are_no_websocket_end_only_their_connection(path, caplog):
    caplog.set_level(logging.INFO)
    async with serving(path), connected(path) as client:
        for noise in (b"dear service\r\n\r\n", b"\0" * 100_000, b"\x16\x03\x01" * 99):
            async with await trio.open_unix_socket(path) as stream:
                with contextlib.suppress(trio.BrokenResourceError):
                    await stream.send_all(noise)
                    await stream.receive_some()
        assert await client.ask("echo", value=1) == 1
    assert caplog.records == []


async def test_a_client_that_never_finishes_its_handshake_is_let_go(path, autojump_clock):
    async with serving(path), await trio.open_unix_socket(path) as stream:
        await stream.send_all(b"GET / HTTP/1.1\r\n")
        assert await stream.receive_some() == b""
        assert trio.current_time() == HANDSHAKE_TIMEOUT


async def test_a_message_that_is_too_long_ends_the_connection_with_1009(path):
    async with serving(path), connected(path) as client:
        assert await client.ask("echo", value="x" * (MAX_REQUEST - 100)) is not None
        with contextlib.suppress(EndedError):
            await client.say("x" * (3 * MAX_REQUEST))
        code, _ = await farewell(client)
        assert code == 1009
        async with connected(path) as again:
            assert await again.ask("echo", value=1) == 1


async def test_an_answer_that_is_too_long_is_refused(path, monkeypatch):
    monkeypatch.setattr(module, "MAX_ANSWER", 10_000)
    too_long = refused(
        -32000,
        "the answer has more than 10000 characters",
        exit_code=1,
        hint="ask for less at once, for example with `count`",
    )
    async with serving(path), connected(path) as client:
        assert len(await client.ask("list", count=90)) == 90
        assert await client.ask("list", count=100) == too_long
        call = {"jsonrpc": "2.0", "id": 1, "method": "list", "params": [60]}
        await client.say([call, call])
        first, second = await client.hear()
        assert (len(first["result"]), second["error"]) == (60, too_long)


async def test_a_long_answer_comes_whole_and_the_others_go_on_meanwhile(path):
    async with serving(path), connected(path) as client, connected(path) as other:
        await client.say({"jsonrpc": "2.0", "id": 1, "method": "list", "params": [10_000, 1_000]})
        assert await other.ask("echo", value=1) == 1
        assert await client.hear() == result(1, 10_000 * [1_000 * "x"])


async def do_not_read(client: Client) -> None:
    """Ask for more than the sockets hold, and than our own library reads ahead."""
    for number in range(4):
        await client.say(
            {"jsonrpc": "2.0", "id": number, "method": "list", "params": [1_000, 1_000]}
        )


async def test_a_client_that_does_not_take_its_answers_is_sent_away(path, autojump_clock, caplog):
    async with serving(path) as service, connected(path) as other, connected(path) as client:
        await do_not_read(client)
        await client.say({"jsonrpc": "2.0", "id": 9, "method": "wait", "params": ["a"]})
        await trio.sleep(ANSWER_TIMEOUT - 1)
        assert (service.at_once, await other.ask("echo", value=1)) == (1, 1)
        await trio.sleep(2)
        assert (service.at_once, await other.ask("echo", value=1)) == (0, 1)
    assert [each.message for each in caplog.records] == [
        "control: a client has not taken an answer for 60 s and is sent away"
    ]


async def test_a_client_that_only_does_not_take_events_may_stay(path, autojump_clock):
    async with serving(path) as service, connected(path) as client:
        await client.ask("events.subscribe")
        for number in range(3000):
            service.notices.tell("service", {"n": number, "pad": 2_000 * "x"})
            await trio.sleep(1)
        heard = [await client.event() for _ in range(100)]
        assert [each["data"]["n"] for each in heard] == list(range(100))


# --- the end ---------------------------------------------------------------------------------


async def test_at_the_end_clients_are_told_and_their_calls_are_cancelled(path, autojump_clock):
    async with serving(path) as service, connected(path) as client:
        await client.say({"jsonrpc": "2.0", "id": 1, "method": "wait", "params": ["a"]})
        await wait_all_tasks_blocked(0.01)
        begun = trio.current_time()
        await service.stop()
        assert await farewell(client) == (1001, "the service stops")
        assert (service.told, trio.current_time()) == (["cancelled a"], begun)


async def test_it_ends_within_a_second_though_clients_do_not_read(path, autojump_clock):
    async with serving(path) as service, contextlib.AsyncExitStack() as clients:
        for _ in range(10):
            client = await clients.enter_async_context(connected(path))
            await do_not_read(client)
        await trio.sleep(1)
        await service.stop()
        assert (trio.current_time(), path.exists()) == (1 + PART_TIMEOUT, False)
