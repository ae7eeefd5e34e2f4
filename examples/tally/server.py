"""A vote as a Docker contract.

`vote` counts a choice, `tally` returns all counts, `schema` describes the arguments. The body of a
request is the argument, in JSON; the body of a 200 is the result. 4xx and 5xx are failures, and 404
means that there is no such endpoint. Calls arrive at the same time, so a lock protects the state.
"""

import json
import os
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock

counts: dict[str, int] = {}
lock = Lock()


def vote(argument):
    choice = argument["choice"]
    if not isinstance(choice, str):
        raise ValueError("choice must be text")
    with lock:
        counts[choice] = counts.get(choice, 0) + 1
        return counts[choice]


def tally(_argument):
    with lock:
        return dict(counts)


def schema(_argument):
    return {"vote": {"choice": "text"}, "tally": None}


ENDPOINTS = {"/vote": vote, "/tally": tally, "/schema": schema}


class Handler(BaseHTTPRequestHandler):
    # Keeps connections open, so that the next call needs no new one.
    protocol_version = "HTTP/1.1"
    # Head and body are sent separately. With Nagle's algorithm and delayed acknowledgements, that
    # would cost 40 ms a call.
    disable_nagle_algorithm = True

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        endpoint = ENDPOINTS.get(self.path)
        if endpoint is None:
            return self.answer(404, "no such endpoint")
        try:
            self.answer(200, endpoint(json.loads(body) if body else None))
        except (KeyError, TypeError, ValueError) as error:
            self.answer(400, f"{type(error).__name__}: {error}")

    def answer(self, status, value):
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_request(self, *_):
        """Logs nothing: one line per call would be most of the log."""


ThreadingHTTPServer(("", int(os.environ.get("PORT", "8080"))), Handler).serve_forever()
