"""The rules of the house: who may import whom, and what must say the same in several places."""

import ast
import importlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.main import get_command

import bssci
from bssci.cli.main import app
from bssci.core.runtime.config import render_config
from bssci.core.runtime.sections import KEYS

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "bssci"

PROTOCOL, CENTER, RUNTIME, CLI = (
    "bssci.core.protocol",
    "bssci.core.center",
    "bssci.core.runtime",
    "bssci.cli",
)
# From the ground up: a floor imports only from itself and from floors below.
FLOORS = [PROTOCOL, CENTER, RUNTIME, CLI]

# What the two lower floors are never in touch with.
WORLD = {
    "asyncio", "cryptography", "fcntl", "getpass", "glob", "http", "io", "logging",
    "multiprocessing", "os", "paho", "pathlib", "platform", "queue", "random", "resource",
    "rich", "secrets", "select", "selectors", "shutil", "signal", "socket", "sqlite3", "ssl",
    "subprocess", "sys", "tempfile", "threading", "time", "tomli_w", "tomllib", "trio",
    "trio_websocket", "typer", "urllib",
}  # fmt: skip

# Rooms of the second floor do not know each other; `service` introduces them. These are not rooms
# but parts of one that has grown: only the room itself uses them.
PARTS = {
    "approval": {"link", "tls"},
    "backup": {"schema"},
    "authority": {"files", "tls"},
    "config": {"kinds", "sections"},
    "overlay": {"config", "files", "sections"},
    "sections": {"kinds"},
    "database": {"schema", "statements"},
    "commit": {"database", "schema", "statements"},
    "statements": {"schema"},
    "life_store": {"commit", "life_statements", "statements"},
    "life_statements": {"statements"},
    "downlink_store": {"commit", "downlink_statements", "statements"},
    "downlink_statements": {"life_statements", "statements"},
    "store": {
        *("commit", "database", "downlink_statements", "downlink_store"),
        *("life_statements", "life_store", "schema", "statements"),
    },
    "link": {"tap"},
    "client": {"feed", "websocket"},
    "control": {"subscriptions", "unix_socket", "websocket"},
    "subscriptions": {"feed"},
    "desk": {
        "config",
        "downlinks",
        "life",
        "link",
        "over_the_air",
        "propagation",
        "queueing",
        "tls",
    },
    "inactivity": {"life"},
    "inspection": {"tls"},
    "life": {"life_terms"},
    "over_the_air": {"life"},
    "sensors": {"imports", "inactivity", "life", "together"},
    "together": {"life"},
    "orders": {"downlinks", "sensors"},
    "methods": {
        "approval",
        "config",
        "downlinks",
        "life",
        "link",
        "over_the_air",
        "radio",
        "sensors",
        "tls",
    },
    "downlinks": {"life"},
    "setup": {"config", "link", "mqtt", "tls"},
    "succession": {"authority", "tls"},
    "server": {"direct_stream", "link", "tls_stream"},
    "holdings": {"station_events"},
    "station": {"deliveries", "holdings", "station_events", "tls_stream"},
}

HEAVY = [
    "cryptography", "msgpack", "paho", "rich", "sqlite3", "ssl", "trio", "asyncio", "tomli_w",
    "trio_websocket", "wsproto",
]  # fmt: skip


def modules() -> Iterator[tuple[str, ast.Module]]:
    for file in sorted(PACKAGE.rglob("*.py")):
        name = ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        yield name, ast.parse(file.read_text(), file)


MODULES = dict(modules())


def imports(module: str) -> Iterator[str]:
    """Everything a module imports, wherever in it, also for types only: knowing is knowing."""
    for node in ast.walk(MODULES[module]):
        if isinstance(node, ast.Import):
            yield from (each.name for each in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} imports relatively"
            assert node.module is not None
            for each in node.names:
                inner = f"{node.module}.{each.name}"
                yield inner if inner in MODULES else node.module


def floor_of(module: str) -> str | None:
    return next((floor for floor in FLOORS if module.startswith(f"{floor}.")), None)


def on(floor: str) -> list[str]:
    return [name for name in MODULES if floor_of(name) == floor]


# --- who may import whom ---


@pytest.mark.parametrize("floor", FLOORS)
def test_a_floor_imports_only_from_itself_and_from_floors_below(floor):
    above = FLOORS[FLOORS.index(floor) + 1 :]
    assert [
        f"{module} imports {name}"
        for module in on(floor)
        for name in imports(module)
        if floor_of(name) in above
    ] == []


@pytest.mark.parametrize("floor", [PROTOCOL, CENTER])
def test_the_two_lower_floors_import_nothing_that_touches_the_world(floor):
    assert [
        f"{module} imports {name}"
        for module in on(floor)
        for name in imports(module)
        if name.partition(".")[0] in WORLD
        # The session key is made with AES; that is computing, not touching.
        and not (module == f"{PROTOCOL}.keys" and name.startswith("cryptography."))
    ] == []


def test_rooms_of_the_second_floor_do_not_know_each_other():
    strangers = []
    for module in on(RUNTIME):
        room = module.rpartition(".")[2]
        known = {name.rpartition(".")[2] for name in imports(module) if floor_of(name) == RUNTIME}
        if room != "service" and known - PARTS.get(room, set()):
            strangers.append(f"{room} knows {sorted(known - PARTS.get(room, set()))}")
    assert strangers == []


def test_only_mqtt_knows_paho():
    users = {module for module in MODULES for name in imports(module) if name.startswith("paho")}
    assert users == {f"{RUNTIME}.mqtt"}


def test_only_store_and_its_parts_know_sqlite():
    users = {module for module in MODULES for name in imports(module) if name == "sqlite3"}
    # `backup` copies the file of the store and looks into the copy, also where no store is open.
    allowed = {f"{RUNTIME}.{part}" for part in {"store", "backup", *PARTS["store"]}}
    assert users - allowed == set()


def test_every_module_of_core_lists_what_is_public():
    missing = []
    for name, tree in MODULES.items():
        listed = {
            target.id
            for node in tree.body
            if isinstance(node, ast.Assign)
            for target in node.targets
            if isinstance(target, ast.Name)
        }
        if floor_of(name) in FLOORS[:3] and "__all__" not in listed:
            missing.append(name)
    assert missing == []


@pytest.mark.parametrize("module", [name for name in MODULES if floor_of(name) in FLOORS[:3]])
def test_what_a_module_lists_is_there(module):
    loaded = importlib.import_module(module)
    assert [name for name in loaded.__all__ if not hasattr(loaded, name)] == []


def test_every_module_says_what_it_is_for():
    silent = [
        name for name, tree in MODULES.items() if not (ast.get_docstring(tree) or "") and tree.body
    ]
    assert silent == []


# --- what is loaded when ---


def loaded_by(code: str) -> list[str]:
    """What heavy things are in memory after a program."""
    program = (
        f"import sys\ntry:\n    {code}\nexcept SystemExit:\n    pass\n"
        f"print(*[name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)"
    )
    environ = {name: text for name, text in os.environ.items() if not name.startswith("COV")}
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        check=True,
        text=True,
        cwd=ROOT,
        env=environ,
    )
    return done.stderr.split()


@pytest.mark.parametrize(
    "code",
    [
        "import bssci",
        "import bssci.core.runtime.config",
        "from bssci.cli.main import run; run(['--help'])",
        "from bssci.cli.main import run; run(['--version'])",
        "from bssci.cli.main import run; run(['certs', 'gen', '--help'])",
        "from bssci.cli.main import run; run(['serve', '--help'])",
        "from bssci.cli.main import run; run(['monitor', '--help'])",
    ],
)
def test_nothing_heavy_is_loaded_before_it_is_used(code):
    assert loaded_by(code) == []


def test_every_name_of_the_package_can_be_had():
    assert [name for name in bssci.__all__ if getattr(bssci, name, None) is None] == []
    assert set(bssci.__all__) <= set(dir(bssci))


def test_a_name_that_the_package_has_not_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'bssci' has no attribute 'frobnicate'"):
        _ = bssci.frobnicate


# --- what must say the same ---


def test_the_sc_toml_of_the_repository_is_what_the_table_of_keys_gives():
    assert (ROOT / "sc.toml").read_text() == render_config()


def readme() -> str:
    file = ROOT / "README.md"
    return file.read_text() if file.exists() else ""


def test_every_key_is_in_the_table_of_the_readme_with_its_default():
    rows = dict(re.findall(r"^\| *`([a-z_]+\.[a-z_]+)` *\| *(.*?) *\|", readme(), re.MULTILINE))
    assert {name: cell.replace("`", "") for name, cell in rows.items()} == {
        name: key.default_text or "made by init" for name, key in KEYS.items()
    }


def words_of(group: object, path: str = "bssci") -> Iterator[str]:
    for name, each in getattr(group, "commands", {}).items():
        inner = list(words_of(each, f"{path} {name}"))
        yield from inner or [f"{path} {name}"]


@pytest.mark.parametrize("command", list(words_of(get_command(app))))
def test_every_command_is_named_in_the_readme(command):
    assert command in readme()
