"""The user's own running ComfyUI, over its HTTP interface: the one address that is ever opened."""

import http.client
import json
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from typing import Any

from sv_core.errors import InvalidInput, Unavailable

ANSWER = 60.0
"""Seconds that a single answer may take."""
_NO_PROXY = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class RunFailed(InvalidInput):
    """ComfyUI refused a prompt or could not finish it: its own sentence."""


def _address(text: str) -> str:
    """``localhost:8188`` as a URL. Raises InvalidInput."""
    url = text if "://" in text else f"http://{text}"
    parts = urllib.parse.urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise InvalidInput(f"{text} is no address of a ComfyUI, such as localhost:8188")
    return url.rstrip("/")


class Comfy:
    """A running ComfyUI. Every method raises Unavailable when it does not answer."""

    def __init__(self, address: str):
        self.url = _address(address)
        self.name = uuid.uuid4().hex

    def _ask(self, path: str, body: Any = None) -> bytes:
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json"} if data else {}
        request = urllib.request.Request(self.url + path, data, headers)
        try:
            with _NO_PROXY.open(request, timeout=ANSWER) as answer:
                return answer.read()
        except urllib.error.HTTPError:
            raise
        except (OSError, http.client.HTTPException) as e:
            reason = getattr(e, "reason", None) or e
            raise Unavailable(
                f"no ComfyUI answers at {self.url} ({reason}): start it, or name its address with "
                f"--comfy, then run the same command again"
            ) from e

    def _get(self, path: str) -> Any:
        try:
            return json.loads(self._ask(path))
        except (ValueError, urllib.error.HTTPError) as e:
            raise Unavailable(f"what answers at {self.url} is no ComfyUI ({e})") from e

    def nodes(self) -> dict[str, dict]:
        """What ``/object_info`` says of every class of nodes."""
        return self._get("/object_info")

    def system(self) -> dict:
        """Versions and devices."""
        return self._get("/system_stats")

    def queue(self, prompt: dict) -> str:
        """The id under which a prompt is queued. Raises RunFailed with the reasons."""
        try:
            data = self._ask("/prompt", {"prompt": prompt, "client_id": self.name})
        except urllib.error.HTTPError as e:
            data = e.read()
        answer = _object(data)
        reasons = _reasons(answer)
        if reasons or "prompt_id" not in answer:
            error = answer.get("error") or "no reason given"
            error = error.get("message", error) if isinstance(error, dict) else error
            raise RunFailed(f"ComfyUI refuses the workflow: {'; '.join(reasons) or error}")
        return answer["prompt_id"]

    def finished(self, number: str) -> dict | None:
        """The history of a prompt that has ended in whatever way; None while it runs."""
        return self._get(f"/history/{number}").get(number)

    def run(self, prompt: dict) -> dict[str, dict]:
        """Outputs by node once the prompt is finished. Raises RunFailed."""
        number = self.queue(prompt)
        try:
            return _outputs(self._wait(number))
        except KeyboardInterrupt:
            self.cancel(number)
            raise

    def _wait(self, number: str) -> dict:
        pause = 0.02
        while (entry := self.finished(number)) is None:
            time.sleep(pause)
            pause = min(1.0, pause * 1.3)
        return entry

    def cancel(self, number: str) -> None:
        """Take a prompt of ours out of the queue, or stop it, and no other."""
        self._ask("/queue", {"delete": [number]})
        running = self._get("/queue").get("queue_running", [])
        if any(number in entry for entry in running):
            self._ask("/interrupt", {"prompt_id": number})

    def picture(self, where: dict) -> bytes:
        """A file that a node of a run has named in its outputs."""
        names = {k: where.get(k, "") for k in ("filename", "subfolder", "type")}
        try:
            return self._ask(f"/view?{urllib.parse.urlencode(names)}")
        except urllib.error.HTTPError as e:
            raise Unavailable(f"ComfyUI no longer has the picture {names['filename']}") from e


def _object(data: bytes) -> dict:
    """A JSON object; what a proxy or an error page says instead is none."""
    try:
        found = json.loads(data)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _reasons(answer: dict) -> list[str]:
    return [
        f"node {node} ({what.get('class_type')}): {error['message']}, {error['details']}"
        for node, what in (answer.get("node_errors") or {}).items()
        for error in what["errors"]
    ]


def _outputs(entry: dict) -> dict[str, dict]:
    if entry["status"]["status_str"] == "success":
        return entry["outputs"]
    for kind, what in entry["status"].get("messages", ()):
        if kind == "execution_error":
            message = " ".join(str(what["exception_message"]).split())
            raise RunFailed(f"node {what['node_id']} ({what['node_type']}) failed: {message}")
        if kind == "execution_interrupted":
            raise RunFailed("the run was interrupted in ComfyUI; run the same command to go on")
    raise RunFailed("ComfyUI did not finish the run, and gives no reason")
