"""The client, with a server of a few lines at the other end."""

import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from sv_core.errors import InvalidInput, Unavailable
from training.evaluate.client import Comfy, RunFailed

ANSWERS = {}
ASKED = []


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self._answer(None)

    def do_POST(self):
        self._answer(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

    def _answer(self, body):
        ASKED.append((self.path, body))
        code, answer = ANSWERS.get(self.path.split("?")[0], (404, ""))
        data = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        self.send_response(code)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args):
        pass


@pytest.fixture
def comfy():
    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    ANSWERS.clear()
    ASKED.clear()
    yield Comfy(f"127.0.0.1:{server.server_port}")
    server.shutdown()
    server.server_close()


def history(status, **messages):
    entry = {"status_str": status, "messages": [[k, v] for k, v in messages.items()]}
    return 200, {"n": {"status": entry, "outputs": {"7": {"images": []}}}}


def test_a_run_is_queued_and_waited_for(comfy):
    ANSWERS["/prompt"] = 200, {"prompt_id": "n"}
    ANSWERS["/history/n"] = history("success")
    assert comfy.run({"1": {}}) == {"7": {"images": []}}
    assert ASKED[0] == ("/prompt", {"prompt": {"1": {}}, "client_id": comfy.name})


def test_a_refused_workflow_says_which_node_and_why(comfy):
    error = {"message": "Value not in list", "details": "name: 'x' not in []"}
    why = {"4": {"class_type": "Loader", "errors": [error]}}
    ANSWERS["/prompt"] = 400, {"error": {"message": "bad"}, "node_errors": why}
    with pytest.raises(RunFailed, match=r"node 4 \(Loader\): Value not in list, name: 'x'"):
        comfy.run({})
    ANSWERS["/prompt"] = 400, {"error": {"message": "Prompt has no outputs"}, "node_errors": {}}
    with pytest.raises(RunFailed, match="Prompt has no outputs"):
        comfy.run({})
    ANSWERS["/prompt"] = 502, b"<html>bad gateway"
    with pytest.raises(RunFailed, match="no reason given"):
        comfy.run({})


def test_a_run_that_fails_says_the_node_s_sentence(comfy):
    ANSWERS["/prompt"] = 200, {"prompt_id": "n"}
    failed = {"node_id": "5", "node_type": "KSampler", "exception_message": "out of\nmemory"}
    ANSWERS["/history/n"] = history("error", execution_error=failed)
    with pytest.raises(RunFailed, match=r"node 5 \(KSampler\) failed: out of memory"):
        comfy.run({})
    ANSWERS["/history/n"] = history("error", execution_interrupted={})
    with pytest.raises(RunFailed, match="interrupted in ComfyUI"):
        comfy.run({})


def test_ctrl_c_takes_only_our_own_run_away(comfy, monkeypatch):
    ANSWERS["/prompt"] = 200, {"prompt_id": "n"}
    ANSWERS["/queue"] = 200, {"queue_running": [[0, "another"]]}
    ANSWERS["/interrupt"] = 200, {}

    def stop(number):
        raise KeyboardInterrupt

    monkeypatch.setattr(comfy, "finished", stop)
    with pytest.raises(KeyboardInterrupt):
        comfy.run({})
    assert ("/queue", {"delete": ["n"]}) in ASKED
    assert not [path for path, _ in ASKED if path == "/interrupt"], "somebody else's run"
    ANSWERS["/queue"] = 200, {"queue_running": [[0, "n"]]}
    comfy.cancel("n")
    assert ("/interrupt", {"prompt_id": "n"}) in ASKED


def test_pictures_come_as_they_are(comfy):
    ANSWERS["/view"] = 200, b"png"
    assert comfy.picture({"filename": "a b.png", "subfolder": "", "type": "temp"}) == b"png"
    assert ASKED[0][0] == "/view?filename=a+b.png&subfolder=&type=temp"
    ANSWERS.clear()
    with pytest.raises(Unavailable, match=r"no longer has the picture a b\.png"):
        comfy.picture({"filename": "a b.png"})


def test_nobody_there_and_somebody_else(comfy):
    with pytest.raises(Unavailable, match=r"no ComfyUI answers at http://127\.0\.0\.1:9"):
        Comfy("127.0.0.1:9").system()
    with pytest.raises(Unavailable, match="is no ComfyUI"):
        comfy.nodes()
    for wrong in ("ftp://x", "http://"):
        with pytest.raises(InvalidInput, match="no address"):
            Comfy(wrong)
