"""A headless Chromium, driven over the Chrome DevTools Protocol."""

import asyncio
import itertools
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import msgspec
from websockets.asyncio.client import ClientConnection, connect

from tests.waiting import until

EXECUTABLE = shutil.which("chromium") or shutil.which("google-chrome")


class Tab:
    """One page, and what its console printed and its scripts raised.

    Attributes:
        problems: texts of exceptions, errors on the console and violations of the page's policy.
        requests: the URLs that the page requested.
    """

    def __init__(self, socket: ClientConnection) -> None:
        self.problems: list[str] = []
        self.requests: list[str] = []
        self._socket = socket
        self._numbers = itertools.count(1)
        self._replies: dict[int, asyncio.Future[Any]] = {}

    async def command(self, method: str, **parameters: object) -> Any:
        """Send a command of the protocol and return its result.

        Raises:
            AssertionError: Chromium refused it.
        """
        number = next(self._numbers)
        reply = self._replies[number] = asyncio.get_running_loop().create_future()
        body = {"id": number, "method": method, "params": parameters}
        await self._socket.send(msgspec.json.encode(body).decode())
        async with asyncio.timeout(30):
            return await reply

    async def evaluate(self, expression: str) -> Any:
        """Return the value of a JavaScript expression in the page."""
        answer = await self.command(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    async def until(self, expression: str, seconds: float = 30) -> None:
        """Wait until a JavaScript expression is true."""
        await until(lambda: self.evaluate(expression), expression, seconds)

    async def open(self, url: str) -> None:
        await self.command("Page.navigate", url=url)
        await self.until("document.readyState === 'complete'")

    async def type(self, text: str) -> None:
        """Type into the element that has the focus."""
        await self.command("Input.insertText", text=text)

    async def enter(self) -> None:
        """Press the Enter key."""
        for kind in ("keyDown", "keyUp"):
            await self.command(
                "Input.dispatchKeyEvent",
                type=kind,
                key="Enter",
                code="Enter",
                text="\r",
                windowsVirtualKeyCode=13,
            )

    async def receive(self) -> None:
        """Receive replies and events until the connection ends."""
        async for data in self._socket:
            message = msgspec.json.decode(data)
            if "id" in message:
                reply = self._replies.pop(message["id"])
                if "error" in message:
                    reply.set_exception(AssertionError(message["error"]))
                else:
                    reply.set_result(message["result"])
            else:
                self._event(message["method"], message["params"])

    def _event(self, method: str, parameters: Any) -> None:
        match method:
            case "Runtime.exceptionThrown":
                self.problems.append(str(parameters["exceptionDetails"]))
            case "Log.entryAdded" if parameters["entry"]["source"] != "network":
                self.problems.append(parameters["entry"]["text"])
            case "Network.requestWillBeSent":
                self.requests.append(parameters["request"]["url"])


@asynccontextmanager
async def chromium() -> AsyncIterator[Tab]:
    """Run a Chromium with a profile of its own; yield its first tab."""
    assert EXECUTABLE is not None
    with tempfile.TemporaryDirectory(prefix="chromium", ignore_cleanup_errors=True) as directory:
        process = await asyncio.create_subprocess_exec(
            EXECUTABLE,
            "--headless=new",
            "--no-sandbox",  # as root, in containers
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--disable-background-networking",
            "--no-proxy-server",
            "--no-first-run",
            "--remote-debugging-port=0",
            f"--user-data-dir={directory}",
            "about:blank",
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )
        try:
            written = Path(directory, "DevToolsActivePort")
            await until(lambda: len(_lines(written)) > 1, "Chromium")
            address = f"http://127.0.0.1:{_lines(written)[0]}"
            async with httpx.AsyncClient(trust_env=False) as client:
                targets = (await client.get(f"{address}/json/list")).json()
            (page,) = [target for target in targets if target["type"] == "page"]
            async with connect(page["webSocketDebuggerUrl"], max_size=None, proxy=None) as socket:
                tab = Tab(socket)
                receiving = asyncio.create_task(tab.receive())
                for domain in ("Page", "Runtime", "Log", "Network"):
                    await tab.command(f"{domain}.enable")
                yield tab
                receiving.cancel()
        finally:
            process.terminate()
            await process.wait()


def _lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []
