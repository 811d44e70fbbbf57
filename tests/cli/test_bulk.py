import json
import stat

import pytest

from bssci.cli import bulk
from bssci.core.runtime.client import Client, UnreachableError
from bssci.core.runtime.sheets import read_sheet
from tests.control import Station

ONE, TWO = 0x70B3D59CD0000001, 0x70B3D59CD0000002
KITCHEN, BATH, CELLAR = 0x70B3D59CD0000102, 0x70B3D59CD0000103, 0x70B3D59CD0000104
KEY = "000102030405060708090A0B0C0D0E0F"


@pytest.fixture
def site(service):
    service.stations = [Station(ONE)]
    service.register(KITCHEN, name="Kitchen")
    service.register(BATH, name="Bath", tags=["wet", "tiled"])
    return service


# --- clear ---


def test_clear_says_how_many_there_are_and_has_the_number_typed(site, cli):
    assert cli("sensors", "clear", typed="2\n") == (
        0,
        "2 sensors detached and forgotten\n  undo file  /state/undo.toml\n",
        "2 sensors at 1 base station will be forgotten.\n"
        "Type 2 to go on: "
        "\n`bssci sensors import /state/undo.toml` takes them back.\n",
    )
    assert site.sensors == {}


@pytest.mark.parametrize("typed", ["3\n", "\n", "yes\n"])
def test_any_other_answer_does_nothing(site, cli, typed):
    assert cli("sensors", "clear", typed=typed) == (
        1,
        "",
        "2 sensors at 1 base station will be forgotten.\nType 2 to go on: nothing was done\n",
    )
    assert (len(site.sensors), site.told) == (2, ["status.get"])


def test_clear_without_a_terminal_needs_yes(site, cli):
    code, out, err = cli("sensors", "clear")
    assert (code, out, site.told) == (2, "", [])
    assert "--yes says that it is meant" in err
    code, out, err = cli("sensors", "clear", "--yes", "--json")
    assert (code, err, json.loads(out)) == (
        0,
        "",
        {"count": 2, "undo": "/state/undo.toml", "pending": {}},
    )


def test_clear_is_exit_code_4_while_it_is_not_confirmed(site, cli):
    site.stations.append(Station(TWO, "silent"))
    code, out, err = cli("sensors", "clear", "--yes", "--timeout", "0")
    assert (code, out, err) == (
        4,
        "2 sensors detached and forgotten\n"
        "  undo file         /state/undo.toml\n"
        "  70B3D59CD0000002  2 sensors to be told\n",
        "\n`bssci sensors import /state/undo.toml` takes them back.\n",
    )


def test_nothing_is_cleared_if_there_are_others_than_were_shown(site, cli, monkeypatch):
    def answer(_question):
        site.register(CELLAR)
        return "2"

    monkeypatch.setattr("bssci.cli.output.answer", answer)
    code, _, err = cli("sensors", "clear", typed="")
    assert (code, len(site.sensors)) == (1, 3)
    assert "error: there are 3 sensors, not 2; nothing was done\n" in err


def test_clear_of_nothing_asks_nothing(service, cli):
    assert cli("sensors", "clear", typed="") == (
        0,
        "",
        "no sensor is registered; nothing was done\n",
    )


def test_what_is_pending_is_watched_on_a_terminal(site, cli, monkeypatch):
    site.stations.append(Station(TWO, "silent", changes={"sensors": {"pending": 2}}))
    drawn: list[object] = []

    class Bar:
        def __init__(self, what, total):
            drawn.append((what, total))

        def __enter__(self):
            return lambda *moved: drawn.append(moved)

        def __exit__(self, *_):
            pass

    monkeypatch.setattr("bssci.cli.output.progress", Bar)
    monkeypatch.setattr("bssci.cli.bulk.LOOK", 0.01)
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    site.until["sensors.clear"] = lambda: site.told.count("stations.list") >= 3
    assert cli("sensors", "clear", "--yes", "--timeout", "0")[0] == 4
    assert drawn[0] == ("waiting for base stations", 0)
    assert set(drawn[1:]) == {(0, 2)}


# --- import ---


@pytest.fixture
def sheet(tmp_path):
    """A file to import."""

    def write(text, name="sensors.csv"):
        (tmp_path / name).write_text(text)
        return str(tmp_path / name)

    return write


GOOD = f"eui,key,name\n70B3D59CD0000104,{KEY},Cellar\n70B3D59CD0000102,,Küche\n"


def test_import_registers_and_changes_row_by_row(site, cli, sheet):
    assert cli("sensors", "import", sheet(GOOD)) == (
        0,
        "1 added, 1 changed, 0 unchanged, 0 failed\n",
        "",
    )
    assert (site.sensors[CELLAR].name, site.sensors[KITCHEN].name) == ("Cellar", "Küche")


def test_rows_that_fail_are_told_one_by_one(site, cli, sheet):
    file = sheet(f"{GOOD}70B3D59CD0000105,0011,Attic\nnobody,{KEY},Nobody\n")
    assert cli("sensors", "import", file) == (
        6,
        "row 4  70B3D59CD0000105  key: the key has 4 hexadecimal digits, 32 are expected "
        "(16 bytes)\n"
        "row 5  'nobody'  'nobody' is not an EUI: 2 hexadecimal digits found, 16 expected; "
        "'n' does not belong there\n"
        "1 added, 1 changed, 0 unchanged, 2 failed\n",
        "",
    )


def test_when_every_row_fails_it_is_exit_code_1(site, cli, sheet):
    assert cli("sensors", "import", sheet("eui,key\n70B3D59CD0000105,00\n"))[0] == 1


def test_a_dry_run_shows_the_difference_and_does_nothing(site, cli, sheet):
    file = sheet(
        f"eui,key,name,bidi,tags\n70B3D59CD0000104,{KEY},Cellar,,\n"
        f"70B3D59CD0000102,{KEY},,yes,warm\n70B3D59CD0000103,,Bath,no,wet;tiled\n"
        "70B3D59CD0000105,,Attic,,\n"
    )
    assert cli("sensors", "import", file, "--dry-run") == (
        6,
        "row 2  70B3D59CD0000104  added\n"
        "row 3  70B3D59CD0000102  changed: name Kitchen -> -, key, bidi no -> yes, tags - -> warm\n"
        "row 5  70B3D59CD0000105  the key is missing: 32 hexadecimal digits are expected\n"
        "1 added, 1 changed, 1 unchanged, 1 failed; nothing was done\n",
        "",
    )
    assert (CELLAR in site.sensors, site.sensors[KITCHEN].name) == (False, "Kitchen")


def test_programs_get_a_result_for_each_row(site, cli, sheet):
    code, out, err = cli("sensors", "import", sheet(GOOD), "--json")
    assert (code, err, json.loads(out)) == (
        0,
        "",
        {
            "done": 2,
            "failed": 0,
            "rows": [
                {"row": 2, "eui": "70B3D59CD0000104", "result": "added", "error": None},
                {
                    "row": 3,
                    "eui": "70B3D59CD0000102",
                    "result": "updated",
                    "changes": {"name": ["Kitchen", "Küche"]},
                    "error": None,
                },
            ],
        },
    )


def test_standard_input_is_a_file_too_and_what_is_not_used_is_said(service, cli):
    text = json.dumps([{"eui": "70B3D59CD0000104", "nwKey": KEY, "colour": "red"}])
    assert cli("sensors", "import", "-", stdin=text) == (
        0,
        "1 added, 0 changed, 0 unchanged, 0 failed\n",
        "not used, because it says nothing of a sensor: colour\n",
    )


def test_many_rows_go_in_parts_and_come_back_as_one(service, cli, sheet):
    lines = "".join(f"{0x70B3D59CD0000000 + n:016X},{KEY}\n" for n in range(450))
    assert cli("sensors", "import", sheet(f"eui,key\n{lines}")) == (
        0,
        "450 added, 0 changed, 0 unchanged, 0 failed\n",
        "",
    )
    assert service.told == ["sensors.import"] * 3
    assert len(service.sensors) == 450


def test_a_file_that_cannot_be_read_is_exit_code_2(service, cli, sheet, tmp_path):
    assert cli("sensors", "import", "/nowhere/x.csv") == (
        2,
        "",
        "error: /nowhere/x.csv: No such file or directory\n",
    )
    code, out, err = cli("sensors", "import", sheet("PK\x03\x04", "x.xlsx"))
    assert (code, out, service.told) == (2, "", [])
    assert "x.xlsx: is a workbook or archive" in err


class Breaking(Client):
    """A service that goes after the first part."""

    def __init__(self):
        self.parts = 0

    async def call(self, method, /, **params):
        self.parts += 1
        if self.parts > 1:
            raise UnreachableError("it has gone")
        rows = params["rows"]
        return {"done": len(rows), "failed": 0, "rows": rows}


@pytest.mark.parametrize(
    ("dry_run", "words"), [(False, "warning: of 300 rows the first 200 were taken\n"), (True, "")]
)
async def test_when_the_service_goes_it_is_said_what_was_taken(capsys, dry_run, words):
    with pytest.raises(UnreachableError):
        await bulk._imported(Breaking(), [{}] * 300, dry_run=dry_run)
    assert capsys.readouterr() == ("", words)


# --- export ---


@pytest.mark.parametrize("form", ["toml", "csv", "json"])
def test_what_is_exported_can_be_imported_and_changes_nothing(site, cli, tmp_path, form):
    file = tmp_path / f"sensors.{form}"
    assert cli("sensors", "export", str(file)) == (0, "", f"2 sensors in {file}\n")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert read_sheet(file.read_bytes(), name="x").form == form
    assert cli("sensors", "import", str(file)) == (
        0,
        "0 added, 0 changed, 2 unchanged, 0 failed\n",
        "",
    )


def test_a_file_that_is_there_is_replaced_only_by_force(site, cli, tmp_path):
    file = tmp_path / "sensors.toml"
    file.write_text("mine")
    assert cli("sensors", "export", str(file)) == (
        2,
        "",
        f"error: {file} is there already; with --force it is replaced\n",
    )
    assert (file.read_text(), site.told) == ("mine", [])
    assert cli("sensors", "export", str(file), "--force")[0] == 0
    assert "Kitchen" in file.read_text()


def test_keys_go_to_standard_output_only_when_they_are_to_be_revealed(site, cli):
    code, out, err = cli("sensors", "export")
    assert (code, out, site.told) == (2, "", [])
    assert "name a FILE, or say --reveal" in err
    code, out, err = cli("sensors", "export", "--reveal")
    assert (code, err) == (0, "")
    assert [row["name"] for row in read_sheet(out.encode(), name="x").rows] == ["Kitchen", "Bath"]
    code, out, _ = cli("sensors", "export", "--reveal", "--json")
    assert (code, len(json.loads(out))) == (0, 2)


def test_the_form_may_be_named(site, cli, tmp_path):
    file = tmp_path / "sensors.txt"
    code, _, err = cli("sensors", "export", str(file))
    assert (code, "'txt' is none of toml, csv, json" in err) == (2, True)
    code, out, _ = cli("sensors", "export", str(file), "--format", "csv", "--json")
    assert (code, json.loads(out)) == (
        0,
        {"file": str(file), "format": "csv", "sensors": 2},
    )
    assert read_sheet(file.read_bytes(), name="x").form == "csv"
