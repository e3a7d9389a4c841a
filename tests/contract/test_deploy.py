# SPDX-License-Identifier: Apache-2.0
"""What is installed on a board: the service, the package's scripts and the first-boot example."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from agent import errors

DEPLOY = Path(__file__).parents[2] / "deploy"
SERVICE = (DEPLOY / "postern.service").read_text()
MAX_EXPOSURE = 1.7  # of 10, as systemd-analyze counts; an unhardened service has 9.6

needs_systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")


def setting(name: str) -> list[str]:
    return re.findall(rf"^{name}=(.*)$", SERVICE, flags=re.MULTILINE)


@needs_systemd
def test_the_service_is_valid(tmp_path: Path) -> None:
    unit = tmp_path / "postern.service"
    unit.write_text(SERVICE.replace("/usr/bin/postern", "/bin/true"))  # the package is not installed here
    done = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stderr) == (0, "")


# Jobs of root that cannot have a whole sandbox, with what each rates at the most, and why. The others are below it.
CEILINGS = {
    # Its user joins over the network; root reads what is closed, changes users, and keeps a file's owner.
    # It looks for the devices that a configuration names.
    "cloud-init/postern-first-boot.service": 2.7,
    # rabbitmqctl is Erlang: memory that is written and executed, the node's own address, another user.
    "rabbitmq/postern-broker.service": 2.5,
    # Installs the package before: its scripts write anywhere, as scripts of packages do. No network, no raw device.
    # In mounts of its own a root that is made writable for it would stay read-only.
    "updates/postern-after-upgrade.service": 4.1,
    # Any protection of files would give it other mounts than those that it is to change.
    "image/tree/etc/systemd/system/postern-writable.service": 3.8,
}
SERVICES = sorted(DEPLOY.rglob("*.service"))


def exposure_of(file: Path) -> float:
    command = ["systemd-analyze", "security", "--offline=true", "--no-pager", file]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    found = re.search(r"Overall exposure level for \S+: ([0-9.]+)", done.stdout)
    assert found
    return float(found[1])


def check_with_drop_in(folder: Path, name: str, text: str) -> None:
    """Have systemd say that the service is valid with a drop-in."""
    unit = folder / "postern.service"
    unit.write_text(SERVICE.replace("/usr/bin/postern", "/bin/true"))
    drop_ins = folder / "postern.service.d"
    drop_ins.mkdir()
    (drop_ins / name).write_text(text)
    done = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stderr) == (0, "")


@needs_systemd
@pytest.mark.parametrize("file", SERVICES, ids=lambda file: str(file.relative_to(DEPLOY)))
def test_each_service_is_hardened(file: Path) -> None:
    """One that stays, and what runs as root for a moment."""
    ceiling = CEILINGS.get(str(file.relative_to(DEPLOY)))
    if ceiling is None:
        assert exposure_of(file) <= MAX_EXPOSURE
        return
    assert "Type=oneshot" in file.read_text(), "only what ends is let off"
    assert exposure_of(file) <= ceiling


def test_nobody_is_let_off_who_is_not_there() -> None:
    assert set(CEILINGS) <= {str(file.relative_to(DEPLOY)) for file in SERVICES}


@pytest.mark.parametrize("file", SERVICES, ids=lambda file: str(file.relative_to(DEPLOY)))
def test_no_job_of_root_may_take_new_rights_or_load_anything(file: Path) -> None:
    text = file.read_text()
    rights = set(re.findall(r"CAP_[A-Z_]+", "".join(re.findall(r"^CapabilityBoundingSet=(.*)$", text, re.MULTILINE))))
    assert "NoNewPrivileges=yes" in text
    assert re.search(r"^CapabilityBoundingSet=", text, re.MULTILINE)
    assert not rights & {
        "CAP_SYS_MODULE",
        "CAP_SYS_RAWIO",
        "CAP_SYS_PTRACE",
        "CAP_SYS_BOOT",
        "CAP_NET_ADMIN",
        "CAP_BPF",
    }
    assert re.search(r"^SystemCallFilter=", text, re.MULTILINE)


# systemd.exec(5): what gives a service mounts of its own.
OWN_MOUNTS = re.compile(
    r"^(Protect(System|Home|Proc|Kernel\w+|ControlGroups)|Private(Tmp|Devices|Mounts)|ProcSubset|\w+Paths|\w*Directory)=",
    re.MULTILINE,
)


@pytest.mark.parametrize(
    "name", ["updates/postern-after-upgrade.service", "image/tree/etc/systemd/system/postern-writable.service"]
)
def test_what_makes_a_read_only_root_writable_sees_the_mounts_of_the_machine(name: str) -> None:
    """Elsewhere the root stays read-only when it is made writable, and no package can be taken back."""
    assert OWN_MOUNTS.findall((DEPLOY / name).read_text()) == []


def test_a_first_boot_sees_the_lines_and_the_camera_that_a_configuration_names() -> None:
    """An image once joined no more: a check of its configuration found no line in a sandbox without devices."""
    text = (DEPLOY / "cloud-init" / "postern-first-boot.service").read_text()
    assert "DevicePolicy=closed" in text
    assert not re.search(r"^Private(Devices|Users)=yes", text, re.MULTILINE)


@pytest.mark.parametrize(
    "name",
    ["updates/upgrade", "cloud-init/first-boot", "mosquitto/postern-broker-take", "rabbitmq/postern-broker-take"],
)
def test_jobs_of_root_become_another_user_without_a_session(name: str) -> None:
    """What opens one (runuser, su) needs more rights than these jobs have."""
    assert not re.search(r"\b(runuser|su|sudo) ", (DEPLOY / name).read_text())


@needs_systemd
def test_the_service_may_ask_whether_the_clock_is_right_and_not_set_it() -> None:
    assert setting("ProtectClock") == []
    assert setting("CapabilityBoundingSet") == [""]
    allowed: set[str] = set()
    for line in setting("SystemCallFilter"):  # a list with '~' takes away, in the order of the file
        calls = {call for name in line.removeprefix("~").split() for call in calls_of(name)}
        allowed = allowed - calls if line.startswith("~") else allowed | calls
    assert {"adjtimex", "clock_adjtime", "clock_gettime"} <= allowed
    assert not {"clock_settime", "settimeofday", "stime", "mount", "reboot"} & allowed


def calls_of(name: str) -> set[str]:
    """The system calls of one of systemd's sets, or the one."""
    if not name.startswith("@"):
        return {name}
    command = ["systemd-analyze", "syscall-filter", "--no-pager", name]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    found: set[str] = set()
    for word in (line.strip() for line in done.stdout.splitlines()[1:]):
        if word and not word.startswith("#"):
            found |= calls_of(word)
    return found


def test_the_service_never_hides_cpuinfo_from_the_model_runtime() -> None:
    assert setting("ProcSubset") == []


def test_the_service_is_restarted_unless_a_person_is_needed() -> None:
    assert setting("Restart") == ["always"]
    waits_for_a_person = (errors.RefusedError, errors.KeyStoreError)
    assert setting("RestartPreventExitStatus") == [
        " ".join([*(str(error.exit_status) for error in waits_for_a_person), "SIGILL"])
    ]
    assert setting("StartLimitIntervalSec") == ["0"]
    assert setting("Type") == ["notify"]
    assert int(setting("WatchdogSec")[0]) <= 30


def test_references_in_memory_reach_no_disk() -> None:
    assert setting("LimitCORE") == setting("MemorySwapMax") == ["0"]
    assert "kernel.core_pattern = |/bin/false" in (DEPLOY / "sysctl.conf").read_text()


def test_the_service_opens_no_port_and_runs_without_rights() -> None:
    assert setting("SocketBindDeny") == ["any"]
    assert setting("CapabilityBoundingSet") == [""]
    assert setting("User") == ["postern"]


@pytest.mark.parametrize("script", ["postinst", "prerm", "postrm"])
def test_the_scripts_of_the_package_are_plain_sh(script: str) -> None:
    path = DEPLOY / "debian" / script
    assert path.read_text().startswith("#!/bin/sh\n")
    subprocess.run(["sh", "-n", path], check=True, timeout=10)


def test_all_that_a_start_imports_from_the_package_is_compiled_at_its_installation() -> None:
    compiled = re.findall(r"^  py3compile -p postern (\S+) ", (DEPLOY / "debian/postinst").read_text(), re.MULTILINE)
    launcher = (DEPLOY / "debian/launcher").read_text()
    (library,) = re.findall(r'^LIB = "(.+)"$', launcher, re.MULTILINE)
    brought = re.findall(r"\{LIB\}(/vendor/[a-z0-9]+)", launcher)
    assert len(brought) == 2
    for folder in (f"{library}/agent", *(library + name for name in brought)):
        assert any(Path(folder).is_relative_to(one) for one in compiled), folder


def test_what_the_package_brings_along_is_pinned_by_digest() -> None:
    for name, files_each in (("vendor-native.txt", 2), ("vendor-pure.txt", 1)):
        text = (DEPLOY / "debian" / name).read_text().replace("\\\n", "")
        requirements = [line for line in text.splitlines() if line and not line.startswith("#")]
        assert requirements
        for requirement in requirements:
            assert re.match(r"[a-z0-9-]+==[0-9.]+ ", requirement)
            assert len(re.findall(r"--hash=sha256:[0-9a-f]{64}", requirement)) >= files_each


def test_the_package_brings_what_the_lines_of_a_board_need_as_debian_12_has_no_libgpiod_2() -> None:
    assert re.search(r"^gpiod==2\.", (DEPLOY / "debian/vendor-native.txt").read_text(), re.MULTILINE)


@needs_systemd
def test_the_network_example_fits_the_service(tmp_path: Path) -> None:
    check_with_drop_in(tmp_path, "network.conf", (DEPLOY / "network.conf.example").read_text())


DEVICES = {  # by which class of /proc/devices, and with what access, a unit reaches what its configuration may name
    "/dev/gpiochip0": ("char-gpiochip", "rw"),
    "/dev/input/by-id/usb-button-event-kbd": ("char-input", "r"),
    "/dev/ttyUSB0": ("char-ttyUSB", "rw"),
    "/dev/ttyACM0": ("char-ttyACM", "rw"),
    "/dev/ttyAMA0": ("char-ttyAMA", "rw"),
    "/dev/ttyS0": ("char-ttyS", "rw"),
}


@pytest.mark.parametrize("device", DEVICES)
def test_the_sandbox_lets_the_unit_use_what_a_door_is_wired_by(device: str) -> None:
    """An access controller's adapter could not be opened: the service may use no device that is not named here."""
    assert setting("DevicePolicy") == ["closed"]
    kind, access = DEVICES[device]
    assert f"{kind} {access}" in setting("DeviceAllow")


DISPLAYS = {  # of each configuration that is shipped, where its display reads
    file: re.findall(r"^#?\s+text: (/\S+)$", file.read_text(), re.MULTILINE)
    for file in (DEPLOY / "config.example.yaml", *sorted((DEPLOY / "examples").glob("*.yaml")))
}


@pytest.mark.parametrize("file", [file for file, texts in DISPLAYS.items() if texts])
def test_the_folder_of_a_display_is_made_by_the_package_and_may_be_written(file: Path) -> None:
    """It was made by nobody, and read-only for the service: the display of the shipped example showed nothing."""
    made = {
        line.split()[1]: line.split()[2]
        for line in (DEPLOY / "tmpfiles.conf").read_text().splitlines()
        if line[:2] == "d "
    }
    for text in DISPLAYS[file]:
        folder = str(Path(text).parent)
        assert made[folder] == "0755"
        assert f"-{folder}" in setting("ReadWritePaths")[0].split()
