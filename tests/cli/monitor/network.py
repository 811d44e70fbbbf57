"""A small network in which there is one of everything, as the service tells it."""

from bssci.cli.monitor.state import Fields, Known, Opened
from tests.control import NOW, Station

TOWER, MAST, SHED = 0x70B3D59CD0000001, 0x70B3D59CD0000002, 0x70B3D59CD0000003
KITCHEN, BATH, ATTIC = "70B3D59CD0000102", "70B3D59CD0000103", "70B3D59CD0000104"
SILENT = "70B3D59CD0000105"


def status(**changes):
    return {
        "version": "1.2.3",
        "uptime": 90061.0,
        "uplinks": {
            "received": 120,
            "duplicates": 40,
            "published": 79,
            "unregistered": 2,
            "rate": 1.25,
        },
        "journal": {"backlog": 0, "unpublished": 1, "state": "ok"},
        "stations": {"online": 2, "known": 3},
        "sensors": {"total": 4},
        "over_the_air": {},
        "downlinks": {"queued": 1, "at_station": 0},
        "mqtt": {"enabled": True, "state": "online", "since": NOW - 60},
        "certificates": {"expires_in_days": 12},
        "refused": {"not_tls": 3, "no_certificate": 1},
    } | changes


def load(cpu, *, temp=41.5):
    return {
        "code": 0,
        "cpuLoad": cpu,
        "memLoad": 0.42,
        "dutyCycle": 0.013,
        "time": int((NOW - 30) * 1e9),
        "uptime": 273600,
        "temp": temp,
        "message": "ok",
    }


def stations(cpu=0.12, time=NOW - 30):
    told = {"status": load(cpu), "status_time": time, "position": [48.1, 11.5, 520.0]}
    counts = {"sensors": {"confirmed": 3, "pending": 1, "refused": 0}}
    away = {"since": NOW - 90, "sensors": {"confirmed": 1, "pending": 0, "refused": 2}}
    strange = {"name": "Shed\x1b[2J", "clock_offset": -85443199.4, "uplinks": 7}
    return [
        Station(TOWER, name="Tower", changes=told | counts).shape({}),
        Station(MAST, is_online=False, changes=away).shape({}),
        Station(SHED, changes=strange).shape({}),
    ]


def sensor(eui, name, activity, *, seen=None, snr=None, stations=(), tags=(), uplinks=0):
    return {
        "eui": eui,
        "name": name,
        "tags": [*tags],
        "key": "****",
        "short_addr": eui[-4:],
        "bidi": name == "Kitchen",
        "wanted": "detached" if activity == "detached" else "attached",
        "activity": activity,
        "stations": [*stations],
        "last_seen": seen,
        "last_cnt": None if seen is None else 1000,
        "uplinks": uplinks,
        "snr": snr,
        "rssi": None if snr is None else snr - 110,
        "preferred": None,
        "timeout": None,
    }


def at(eui, state, error=None):
    return {"eui": f"{eui:016X}", "state": state, "error": error}


REFUSAL = {"code": 22, "message": "no room", "time": NOW - 300}


def sensors():
    everywhere = [at(TOWER, "confirmed"), at(SHED, "pending")]
    return [
        sensor(KITCHEN, "Kitchen", "active", seen=NOW - 5, snr=12.3, uplinks=1187,
               stations=everywhere, tags=["ground floor", "water"]),
        sensor(BATH, "Bath", "warning", seen=NOW - 130000, snr=-3.1, uplinks=20,
               stations=[at(TOWER, "confirmed"), at(MAST, "refused", REFUSAL)]),
        sensor(ATTIC, "", "never_seen", stations=everywhere),
        sensor(SILENT, "Söller 日本", "detached"),
    ]  # fmt: skip


def uplink(number, *, eui=KITCHEN, cnt=None, ago=None, stations=(TOWER, SHED), snr=12.34):
    received = NOW - (number * 7 if ago is None else ago)
    receptions = [
        {"bs_eui": f"{each:016X}", "rxTime": int(received * 1e9), "snr": snr - place, "rssi": -98.5}
        for place, each in enumerate(stations)
    ]
    return {
        "id": f"uplink-{number}",
        "sensor_eui": eui,
        "bs_eui": receptions[0]["bs_eui"],
        "rxTime": int(received * 1e9),
        "snr": snr,
        "rssi": -98.5,
        "cnt": 1000 - number if cnt is None else cnt,
        "data": [0, 17, 255, number % 256],
        "receptions": receptions,
        "registered": True,
        "received": received,
        "published": None,
    }


def uplinks(count=40):
    """The newest first. A few telegrams of the kitchen were heard by nobody."""
    made = []
    for number in range(1, count + 1):
        eui = (KITCHEN, KITCHEN, "0200000000000009")[number % 3]
        lost = 3 if number > 20 else 0
        who = (TOWER, SHED) if number % 4 else (TOWER,)
        snr = 12.0 + (number * 5) % 7
        made.append(uplink(number, eui=eui, cnt=1000 - number - lost, stations=who, snr=snr))
    return made


def downlink(number, state, *, result=None, ref=None):
    return {
        "id": number,
        "sensor_eui": KITCHEN,
        "ref": ref,
        "state": state,
        "bs_eui": None if state == "queued" else f"{TOWER:016X}",
        "created": NOW - 60 * number,
        "expires": NOW + 3600,
        "result": result,
        "intent": "deliver",
        "data": [1, 255],
        "entries": None,
    }


def downlinks():
    return [downlink(2, "queued", ref="valve"), downlink(1, "sent", result={"result": "sent"})]


def refused():
    certificate = {"subject": "CN=70B3D59CD0000009", "fingerprint": "ab" * 32}
    return [
        {"time": NOW - 40, "address": "192.0.2.9", "reason": "not_tls", "eui": None,
         "certificate": None, "detail": "it began with GET / HTTP", "count": 3},
        {"time": NOW - 4000, "address": "192.0.2.10", "reason": "identity_mismatch",
         "eui": "70B3D59CD0000008", "certificate": certificate, "detail": "", "count": 1},
    ]  # fmt: skip


EVENTS: list[tuple[str, int, Fields]] = [
    ("station", 300, {"eui": f"{TOWER:016X}", "state": "online"}),
    ("station", 90, {"eui": f"{MAST:016X}", "state": "offline"}),
    ("sensor", 80, {"eui": BATH, "name": "Bath", "event": "refused", "bs_eui": f"{MAST:016X}",
                    "code": 22, "message": "no room"}),
    ("sensor", 60, {"eui": BATH, "name": "Bath", "event": "warning"}),
    ("service", 50, {"event": "settings", "keys": ["dedup.delay", "log.level"]}),
    ("station", 40, {"eui": None, "state": "refused", "reason": "not_tls",
                     "address": "192.0.2.9", "detail": "it began with GET / HTTP"}),
    ("downlink", 30, {"id": 1, "eui": KITCHEN, "ref": None, "event": "sent",
                      "bs_eui": f"{TOWER:016X}", "cnt": 999}),
    ("sensor", 20, {"eui": SILENT, "name": "Söller 日本", "event": "detach", "cause": "command"}),
    ("gap", 10, {"lost": 4}),
]  # fmt: skip


def episodes():
    return [
        {"time": NOW - 7200 * n, "what": what, "cause": cause, "bs_eui": bs, "code": code,
         "message": message}
        for n, (what, cause, bs, code, message) in enumerate(
            [
                ("attached", "", f"{TOWER:016X}", None, ""),
                ("refused", "", f"{MAST:016X}", 22, "no room"),
                ("added", "command", None, None, ""),
            ]
        )
    ]  # fmt: skip


def known(opened=None):
    """Everything that can be known."""
    made = Known()
    made.take_sensors(sensors())
    made.take_latest(uplinks())
    for number, cpu in enumerate((0.1, 0.5, 0.3)):
        made.take_stations(stations(cpu, NOW - 600 + 200 * number))
    made.take_stations(stations())
    for kind, ago, data in EVENTS:
        made.take(kind, NOW - ago, data)
    made.downlinks, made.refused = downlinks(), refused()
    made.status = status()
    if opened is not None:
        made.opened, made.details = opened, details(made, opened)
    return made


def details(made: Known, opened: Opened):
    if opened.kind != "sensor" or opened.eui not in made.sensors:
        return {"shape": None}
    more = {"wanted_since": NOW - 86400, "cause": "command", "silent_for": 5.0,
            "detached_after": 259200.0}  # fmt: skip
    return {
        "shape": made.sensors[opened.eui] | more,
        "uplinks": made.uplinks_of(opened.eui),
        "history": episodes(),
        "downlinks": downlinks(),
    }
