# SPDX-License-Identifier: Apache-2.0
"""What each camera needs of the unit's sandbox and of the package, and no more."""

from __future__ import annotations

import re
import typing
from pathlib import Path

from agent.config.camera import CameraSettings
from tests.contract.test_deploy import DEPLOY, SERVICE, check_with_drop_in, needs_systemd, setting

JETSON = (DEPLOY / "cameras" / "jetson.conf").read_text()
# What each camera that the configuration offers needs of the sandbox, and which file gives it.
SANDBOX = {
    "picamera2": (SERVICE, ["char-video4linux rw", "char-media rw", "char-dma_heap rw", "/dev/udmabuf rw"]),
    "v4l2": (SERVICE, ["char-video4linux rw"]),
    "rtsp": (SERVICE, []),
    "gstreamer": (JETSON, ["char-nvhost* rw", "/dev/nvmap rw"]),
    "file": (SERVICE, []),
    "scene": (SERVICE, []),
}


def test_each_camera_that_the_configuration_offers_has_a_sandbox_that_lets_it_work() -> None:
    kinds = {kind.__struct_config__.tag for kind in typing.get_args(CameraSettings)}
    assert set(SANDBOX) == kinds
    for text, devices in SANDBOX.values():
        allowed = re.findall(r"^DeviceAllow=(.*)$", text, flags=re.MULTILINE)
        assert set(devices) <= set(allowed)
    assert "PrivateTmp=no" in JETSON, "nvargus-daemon's socket lies in /tmp"
    assert "AF_INET" in setting("RestrictAddressFamilies")[0]
    postinst = (DEPLOY / "debian" / "postinst").read_text()
    assert "/etc/nv_tegra_release" in postinst
    assert "postern.service.d/jetson.conf" in postinst


@needs_systemd
def test_the_sandbox_of_a_jetson_is_valid_and_still_tight(tmp_path: Path) -> None:
    check_with_drop_in(tmp_path, "jetson.conf", JETSON)


def test_no_camera_brings_along_what_another_one_needs() -> None:
    control = (DEPLOY / "debian" / "control.in").read_text()
    assert "Recommends" not in control
    (depends,) = re.findall(r"^Depends: (.*)$", control, flags=re.MULTILINE)
    (suggests,) = re.findall(r"^Suggests: (.*)$", control, flags=re.MULTILINE)
    readme = (DEPLOY / "README.md").read_text()
    for package in ("python3-picamera2", "python3-av", "python3-gi"):
        assert package in suggests
        assert package not in depends
        assert package in readme


def test_each_package_that_a_command_tells_people_to_install_is_one_that_the_package_names() -> None:
    """A unit has Debian's package and its Python: a wheel by pip is not found there."""
    control = (DEPLOY / "debian" / "control.in").read_text()
    named = set(re.findall(r"[\w.+-]+", ", ".join(re.findall(r"^(?:Depends|Suggests): (.*)$", control, re.MULTILINE))))
    told = {
        name: file.name
        for file in (DEPLOY.parent / "agent").rglob("*.py")
        for name in re.findall(r"\bpython3-[a-z0-9.+-]*[a-z0-9]", file.read_text())
    }
    assert "python3-zxing-cpp" in told
    assert told.keys() <= named, told
