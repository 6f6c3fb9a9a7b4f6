"""What a fleet is asked for: flags, files, sweeps, boards and commands, before anything is started."""

from pathlib import Path

import pytest

from propeller.emulation import boards, firmware, network
from propeller.errors import BadInput, EnvironmentError_
from propeller.roles.emulate_wishes import (
    Wishes,
    checked,
    megabytes_of,
    of_document,
    rate_of,
    seconds_of,
    share_of,
)


def test_units_are_read_as_people_write_them():
    """Shares, times, rates and sizes, with a unit or without."""
    assert (share_of("10%"), share_of("0.25"), seconds_of("50ms"), seconds_of("2")) == (0.1, 0.25, 0.05, 2.0)
    assert (rate_of("20kB"), rate_of("1MB"), megabytes_of("15M")) == (20_000.0, 1e6, 15)


@pytest.mark.parametrize(
    ("read", "text"),
    [(share_of, "10 apples"), (seconds_of, "soon"), (rate_of, "1GB"), (megabytes_of, "1.5M")],
)
def test_what_is_no_amount_is_refused(read, text):
    """A unit that does not exist is no number without one."""
    with pytest.raises(BadInput):
        read(text)


def test_a_sweep_makes_a_run_of_each_combination():
    """Lists multiply; `[experiment]` goes over the flags, and `[sweep]` over both."""
    document = {"experiment": {"rounds": 3, "loss": "5%"}, "sweep": {"devices": [2, 4], "loss": [0, "10%"]}}
    runs = of_document(document, Wishes(rounds=9, epochs=7))
    assert [(one.devices, one.loss) for one in runs] == [(2, 0), (2, 0.1), (4, 0), (4, 0.1)]
    assert {(one.rounds, one.epochs) for one in runs} == {(3, 7)}


@pytest.mark.parametrize(
    "document",
    [
        {"experiments": {}},
        {"experiment": {"lose": 1}},
        {"experiment": {"devices": "many"}},
        {"experiment": {"devices": 2.5}},
        {"experiment": {"loss_by": "proxy"}},
        {"sweep": {"loss": "10%"}},
        {"sweep": {"loss": []}},
        {"sweep": {"clients": [9]}, "experiment": {"devices": 3}},
        {"sweep": {"seed": list(range(40)), "epochs": list(range(1, 41))}},
    ],
)
def test_a_file_that_cannot_be_is_refused(document):
    """Unknown names, wrong kinds, impossible numbers and endless sweeps, before anything starts."""
    with pytest.raises(BadInput):
        of_document(document, Wishes())


def test_a_mixed_fleet_counts_its_devices():
    """The numbers of a mixed fleet are the devices, whatever else was said."""
    wishes = checked(Wishes(devices=99, board="qemu_x86=2,mps2_an385=1"))
    assert wishes.devices == 3
    assert [one.name for one in wishes.fleet()] == ["qemu_x86", "qemu_x86", "mps2_an385"]
    with pytest.raises(BadInput, match="no board"):
        checked(Wishes(board="toaster"))


def test_memory_that_a_board_cannot_have_is_refused():
    """A firmware is built for one size, and says so instead of ignoring the wish."""
    assert boards.memory_mb(boards.ZEPHYR_X86, 15) == 15
    with pytest.raises(BadInput, match="built for 15 MB"):
        boards.memory_mb(boards.ZEPHYR_X86, 14)


def test_a_build_is_taken_for_its_board_and_no_other(tmp_path):
    """A directory holds a build, or one for each board below it; another board's image is never booted."""
    made = tmp_path / "qemu_x86" / "zephyr"
    made.mkdir(parents=True)
    (made / ".config").write_text('CONFIG_ARCH="x86"\nCONFIG_BOARD="qemu_x86"\n')
    for name in ("zephyr.strip", "zephyr.elf"):
        (made / name).touch()
    for directory in (tmp_path, made.parent):
        assert firmware.built(boards.ZEPHYR_X86, directory).kernel == made / "zephyr.strip"
    with pytest.raises(EnvironmentError_, match="holds no firmware for mps2_an385"):
        firmware.built(boards.ZEPHYR_ARM, tmp_path)
    with pytest.raises(EnvironmentError_, match="another board than mps2_an385"):
        firmware.built(boards.ZEPHYR_ARM, made.parent)


def test_firmware_says_which_trees_it_misses(tmp_path):
    """ARM's wants one tree more than x86's."""
    trees = {"ZEPHYR_BASE": "/zephyr", "WAMR_ROOT": "/wamr"}
    with pytest.raises(EnvironmentError_, match="CMSIS_ROOT not set"):
        firmware.build(boards.ZEPHYR_ARM, tmp_path, trees)
    with pytest.raises(EnvironmentError_, match="ZEPHYR_BASE and WAMR_ROOT not set"):
        firmware.build(boards.ZEPHYR_X86, tmp_path, {})


def test_a_build_that_failed_to_begin_binds_no_later_one(tmp_path, monkeypatch):
    """What cmake found on the way is forgotten, so that it looks again once what was missing is there."""
    programs, made = tmp_path / "bin", tmp_path / "made"
    programs.mkdir()
    for name in ("cmake", "ninja", "dtc", "x86_64-linux-gnu-gcc"):
        (programs / name).write_text(f'#!/bin/sh\necho no kwalify\n: > "{made}/CMakeCache.txt"\nexit 1\n')
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:/bin")
    with pytest.raises(EnvironmentError_, match="no kwalify"):
        firmware.build(boards.ZEPHYR_X86, made, {"ZEPHYR_BASE": "/zephyr", "WAMR_ROOT": "/wamr"})
    assert list(made.iterdir()) == []


def test_commands_name_the_console_the_card_and_the_network():
    """A card that is plugged in and one that is soldered on are told apart, with taps and without."""
    image = boards.Image(kernel=Path("zephyr.strip"))
    plugged = boards.command(
        boards.ZEPHYR_X86,
        image,
        memory=15,
        mac="52:54:00:00:00:01",
        backend="user",
        console=Path("/c/device1"),
    )
    assert "user,id=n0" in plugged
    assert "pipe:/c/device1" in plugged
    assert plugged[plugged.index("-m") + 1] == "15"
    tap = "tap,ifname=zfl1,script=no,downscript=no"
    soldered = boards.command(
        boards.ZEPHYR_ARM, image, memory=16, mac="52:54:00:00:00:02", backend=tap, console=Path("/c/device2")
    )
    assert f"{tap},model=lan9118,mac=52:54:00:00:00:02" in soldered
    assert "-m" not in soldered


def test_every_device_of_a_bridge_has_its_own_address_and_tap():
    """A thousand devices share no address, and none has the bridge's."""
    addresses = {network.device_ip(number) for number in range(1, 1001)}
    assert len(addresses) == 1000
    assert network.HOST not in addresses
    assert sum("tuntap add" in line for line in network.bridge_commands(3)) == 3
