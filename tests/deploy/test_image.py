"""The image alone: its permissions, what it writes, how it begins and ends."""

from collections.abc import Iterator

import pytest

from tests.deploy.docker import IMAGE, docker, inspect
from tests.waiting import until

pytestmark = pytest.mark.deploy

RESTRICTED = ("--read-only", "--tmpfs=/tmp", "--cap-drop=ALL", "--security-opt=no-new-privileges")


@pytest.fixture
def volume() -> Iterator[str]:
    name = docker("volume", "create")
    yield name
    docker("volume", "rm", "--force", name)


def run(*arguments: str) -> str:
    """Run a command in a new container that is gone afterwards."""
    return docker("run", "--rm", "--entrypoint", arguments[0], IMAGE, *arguments[1:])


async def test_without_a_command_it_is_a_whole_server_with_its_data_in_the_volume(
    volume: str,
) -> None:
    environment = ("--env=CERTSTREAM_LOG_LISTS=[]", f"--volume={volume}:/data")
    options = (*RESTRICTED, "--health-interval=2s")
    container = docker("run", "--detach", *options, *environment, IMAGE)
    try:
        await until(lambda: health(container) == "healthy", "it is healthy", 60)
        assert docker("exec", container, "id", "-u") == "10001"
        docker("stop", container)
        assert inspect(container)["State"]["ExitCode"] == 0
        assert docker("diff", container) == ""
        docker("start", container)
        await until(lambda: health(container) == "healthy", "it is healthy again", 60)
        # Redis 7 keeps a directory of append-only files.
        assert "appendonlydir" in docker("exec", container, "ls", "/data").split()
    finally:
        docker("rm", "--force", "--volumes", container)


def health(container: str) -> str:
    return str(inspect(container)["State"]["Health"]["Status"])


def test_every_command_is_there() -> None:
    assert docker("run", "--rm", IMAGE, "version").startswith("certstream-server ")


def test_no_compiler_and_no_package_installer_of_ours_is_left_in_it() -> None:
    assert run("sh", "-c", "command -v gcc cc c++ make || true") == ""
    assert run("sh", "-c", "ls -d /build /wheels /src 2>/dev/null || true") == ""
    assert run("sh", "-c", "ls /opt/certstream/bin | grep pip || true") == ""


def test_its_labels_say_what_it_is() -> None:
    labels = docker("image", "inspect", "--format", "{{json .Config.Labels}}", IMAGE)
    for name in ("title", "description", "licenses", "version", "revision"):
        assert f"org.opencontainers.image.{name}" in labels


def test_nothing_of_the_machine_that_built_it_is_in_it() -> None:
    history = docker("history", "--no-trunc", "--format", "{{.CreatedBy}}", IMAGE)
    assert "PIP_" not in history
    assert "PIP_" not in run("env")
