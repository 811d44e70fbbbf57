"""What a base station's radio can be asked to do: transmit as an end point (BSSCI 1.0.0, 5.11), and
the Variable MAC sub-channel (its attachment 1.0.0).

All of it is optional: a base station that cannot do it refuses, mostly with error 95.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Protocol

import trio

from bssci.core.center.rpc import InvalidRequestError, NoAnswerError, RequestError
from bssci.core.center.user_data import MAX_DATA, InvalidUserDataError, octets_of
from bssci.core.protocol.codec import encode
from bssci.core.protocol.errors import (
    Code,
    LocalProtocolError,
    OperationLostError,
    OperationRefusedError,
    StorageError,
)
from bssci.core.protocol.eui import format_eui
from bssci.core.protocol.messages import (
    MAX_USER_DATA,
    Message,
    UplinkDataTransmit,
    VmActivate,
    VmDeactivate,
    VmDownlinkData,
    VmStatus,
    VmStatusResponse,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

__all__ = ["Caller", "Radio"]

WAIT = 30.0  # seconds that a method waits for the base station when it is not told otherwise
MAX_WAIT = 3600.0  # seconds

MAX_COUNTER = 2**32 - 1

# End points in whose name something was transmitted that may not have been heard again.
MAX_TRANSMITTED = 10_000

Fields = dict[str, object]


class Caller(Protocol):
    """A base station that is connected."""

    async def call(self, message: Message) -> Message:
        """Carry out an operation; the response.

        Raises:
            OperationRefusedError: the base station refused it.
            OperationLostError: there was no answer.
            StorageError: it was not sent.
        """
        ...


class Radio:
    """The methods `stations.transmit` and `stations.vm_…`.

    Every one may raise `RequestError` (or a kind of it), whose words are for the person who asked,
    and `StorageError`: nothing was done then. `timeout` is how many seconds to wait for the base
    station; it is asked for no longer than `server.operation_timeout` in any case.
    """

    def __init__(
        self,
        *,
        link_of: Callable[[int], Caller | None],
        find_station: Callable[[str], int],
        find_sensor: Callable[[str], int],
        session_of: Callable[[int], tuple[bytes, int] | None],
        last_counter_of: Callable[[int], int | None],
    ) -> None:
        """
        Args:
            link_of: the connection of a base station; None if it is not connected.
            find_station, find_sensor: whom an EUI or a name means; raise a `RequestError`.
            session_of: network session key and short address of an end point; None if it has none.
            last_counter_of: the packet counter of its last uplink; None: it was never heard.
        """
        self._link_of = link_of
        self._find_station = find_station
        self._find_sensor = find_sensor
        self._session_of = session_of
        self._last_counter_of = last_counter_of
        self._transmitted: OrderedDict[int, tuple[bytes, int]] = OrderedDict()

    def methods(self) -> dict[str, Callable[..., Awaitable[object]]]:
        """What can be asked, by name."""
        return {
            "stations.transmit": self.transmit,
            "stations.vm_status": self.vm_status,
            "stations.vm_activate": self.vm_activate,
            "stations.vm_deactivate": self.vm_deactivate,
            "stations.vm_send": self.vm_send,
        }

    async def transmit(
        self,
        *,
        eui: str,
        sensor: str,
        data: str | list[int],
        format: int = 0,  # noqa: A002  # as the field is called
        profile: str | None = None,
        packet_cnt: int | None = None,
        timeout: float = WAIT,  # noqa: ASYNC109  # as the caller of the control socket says
    ) -> Fields:
        """Have a base station transmit an uplink in the name of a sensor.

        `data`: hexadecimal digits, or a list of bytes. `packet_cnt`: default is the one after the
        last that is known.
        """
        bs_eui, ep_eui = self._find_station(eui), self._find_sensor(sensor)
        session = self._session_of(ep_eui)
        if session is None:
            raise RequestError(
                f"sensor {format_eui(ep_eui)} has no session whose key could be used",
                hint="`bssci sensors attach` gives a registered sensor one",
            )
        deadline = _deadline(timeout)
        key, short_addr = session
        counter = self._next_counter(ep_eui, key) if packet_cnt is None else packet_cnt
        message = UplinkDataTransmit(
            ep_eui=ep_eui,
            nwk_sn_key=key,
            sh_addr=short_addr,
            packet_cnt=counter,
            profile=profile,
            user_data=_octets(data, most=MAX_DATA),
            format=format,
        )
        link = self._ready(bs_eui, message)
        self._note_transmitted(ep_eui, key, counter)
        await _ask(link, bs_eui, message, deadline)
        return {
            "eui": format_eui(bs_eui),
            "sensor_eui": format_eui(ep_eui),
            "packet_cnt": counter,
        }

    async def vm_status(
        self,
        *,
        eui: str,
        timeout: float = WAIT,  # noqa: ASYNC109  # as above
    ) -> Fields:
        """Which Variable MAC types a base station listens to."""
        return await self._mac_types(self._find_station(eui), _deadline(timeout))

    async def vm_activate(
        self,
        *,
        eui: str,
        mac_type: int,
        timeout: float = WAIT,  # noqa: ASYNC109  # as above
    ) -> Fields:
        """Have a base station listen to a Variable MAC type."""
        return await self._switch(eui, VmActivate(mac_type=mac_type), _deadline(timeout))

    async def vm_deactivate(
        self,
        *,
        eui: str,
        mac_type: int,
        timeout: float = WAIT,  # noqa: ASYNC109  # as above
    ) -> Fields:
        """Have a base station listen to a Variable MAC type no more."""
        return await self._switch(eui, VmDeactivate(mac_type=mac_type), _deadline(timeout))

    async def vm_send(
        self,
        *,
        eui: str,
        mac_type: int,
        data: str | list[int],
        trx_time: int,
        sys_time: int,
        freq_off: float,
        ul_snr: float,
        ul_rssi: float,
        carr_off_range: int,
        carr_space: int,
        ul_crc: list[int],
        sync_burst: bool,
        dual_chan: bool,
        repetition: bool,
        long_blk_dist: bool,
        tsi: int = 128,
        timeout: float = WAIT,  # noqa: ASYNC109  # as the caller of the control socket says
    ) -> Fields:
        """Have a base station send a Variable MAC telegram, as the answer to one it heard.

        `data`: as of `stations.transmit`. `ul_crc`: header and payload CRC of what is answered.
        """
        bs_eui = self._find_station(eui)
        message = VmDownlinkData(
            mac_type=mac_type,
            user_data=_octets(data, most=MAX_USER_DATA),
            trx_time=trx_time,
            sys_time=sys_time,
            freq_off=freq_off,
            ul_snr=ul_snr,
            ul_rssi=ul_rssi,
            carr_off_range=carr_off_range,
            carr_space=carr_space,
            ul_crc=tuple(ul_crc),
            tsi=tsi,
            sync_burst=sync_burst,
            dual_chan=dual_chan,
            repetition=repetition,
            long_blk_dist=long_blk_dist,
        )
        deadline = _deadline(timeout)
        await _ask(self._ready(bs_eui, message), bs_eui, message, deadline)
        return {"eui": format_eui(bs_eui), "mac_type": mac_type}

    # --- Variable MAC ---

    async def _switch(
        self, eui: str, message: VmActivate | VmDeactivate, deadline: float
    ) -> Fields:
        """Do it, and tell what is active then if the base station says so."""
        bs_eui = self._find_station(eui)
        await _ask(self._ready(bs_eui, message), bs_eui, message, deadline)
        try:
            return await self._mac_types(bs_eui, deadline)
        except (RequestError, StorageError):
            return {"eui": format_eui(bs_eui)}

    async def _mac_types(self, bs_eui: int, deadline: float) -> Fields:
        question = VmStatus()
        response = await _ask(self._ready(bs_eui, question), bs_eui, question, deadline)
        assert isinstance(response, VmStatusResponse)
        return {"eui": format_eui(bs_eui), "mac_types": sorted(set(response.mac_types))}

    # --- counters ---

    def _next_counter(self, ep_eui: int, key: bytes) -> int:
        """One that was not used: with a counter that is used twice, two telegrams have one key."""
        heard = self._last_counter_of(ep_eui)
        counter = 1 + max(0 if heard is None else heard, self._last_transmitted(ep_eui, key))
        if counter > MAX_COUNTER:
            raise RequestError(
                f"sensor {format_eui(ep_eui)} has used its last packet counter",
                hint="it has to be attached anew",
            )
        return counter

    def _last_transmitted(self, ep_eui: int, key: bytes) -> int:
        """Counters of an earlier session do not count: an end point begins anew as well."""
        earlier, counter = self._transmitted.get(ep_eui, (key, 0))
        return counter if earlier == key else 0

    def _note_transmitted(self, ep_eui: int, key: bytes, counter: int) -> None:
        counter = max(counter, self._last_transmitted(ep_eui, key))
        self._transmitted[ep_eui] = key, counter
        self._transmitted.move_to_end(ep_eui)
        if len(self._transmitted) > MAX_TRANSMITTED:
            self._transmitted.popitem(last=False)

    # --- asking ---

    def _ready(self, bs_eui: int, message: Message) -> Caller:
        """The connection of a base station that can be asked this."""
        try:
            encode(message)
        except LocalProtocolError as error:
            raise InvalidRequestError(str(error)) from error
        link = self._link_of(bs_eui)
        if link is None:
            raise RequestError(
                f"base station {format_eui(bs_eui)} is not connected, "
                f"{message.command} cannot be asked of it",
                hint="`bssci stations list` shows which are",
            )
        return link


def _deadline(timeout: float) -> float:
    if not 0 <= timeout <= MAX_WAIT:
        raise InvalidRequestError(f"cannot wait {timeout:g} s: 0 to {MAX_WAIT:g} are possible")
    return trio.current_time() + timeout


async def _ask(link: Caller, bs_eui: int, message: Message, deadline: float) -> Message:
    """What a base station answers."""
    what = f"base station {format_eui(bs_eui)}"
    try:
        with trio.fail_at(deadline):
            return await link.call(message)
    except OperationRefusedError as error:
        raise _refusal(what, message, error) from error
    except trio.TooSlowError as error:
        raise _no_answer(what, f"{message.command}: no answer in time") from error
    except OperationLostError as error:
        raise _no_answer(what, str(error)) from error


def _refusal(what: str, message: Message, error: OperationRefusedError) -> RequestError:
    words = f": {error.message[:200]}" if error.message else ""
    return RequestError(
        f"{what} refuses {message.command} with error {error.code}{words}",
        hint="it does not have this feature" if error.code == Code.EOPNOTSUPP else "",
    )


def _no_answer(what: str, why: str) -> NoAnswerError:
    return NoAnswerError(f"{what}: {why}", hint="it may still do it: look before you repeat it")


def _octets(data: object, *, most: int) -> bytes:
    try:
        return octets_of(data, most=most)
    except InvalidUserDataError as error:
        raise InvalidRequestError(f"data: {error}") from error
