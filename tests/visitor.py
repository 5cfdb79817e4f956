"""One visitor of the page, over the requests its script would send.

Holds what each component shows, fires events by the component's id in the page, and takes the
answers in. `.then` and `.change` are the script's work: fire what should follow.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote

import httpx
from gradio_client.utils import apply_diff

API = "/gradio_api"


class Visitor:
    """A browser tab without the drawing."""

    def __init__(self, address: str, timeout_seconds: float = 120.0) -> None:
        self.http = httpx.Client(base_url=address, timeout=timeout_seconds, trust_env=False)
        self.session = secrets.token_hex(6)
        config = self.http.get("/config").raise_for_status().json()
        self.parts = {part["id"]: part for part in config["components"]}
        self.ids = {
            part["props"]["elem_id"]: part["id"]
            for part in config["components"]
            if part["props"].get("elem_id")
        }
        self.events = config["dependencies"]
        self.values = {number: part["props"].get("value") for number, part in self.parts.items()}
        self.drawn: object = None
        self.etag = ""

    def close(self) -> None:
        self.http.close()

    def id_of(self, name: str) -> int:
        """Return a component's number by its id in the page."""
        return self.ids[name]

    def value(self, name: str) -> object:
        return self.values[self.id_of(name)]

    def put(self, name: str, value: object) -> None:
        self.values[self.id_of(name)] = value

    def prop(self, name: str, prop: str) -> object:
        """Return what is known of a component besides its value, such as `visible`."""
        return self.parts[self.id_of(name)]["props"].get(prop)

    def change(self, name: str, value: object) -> None:
        """Put a value and do what the script does when it changes, until it stands still."""
        self.put(name, value)
        trigger = self.id_of(name)
        found = [e for e in self.events if [trigger, "change"] in e["targets"] and e["backend_fn"]]
        # All are asked before the first is answered.
        for event, body in [(event, self._body(event, trigger)) for event in found]:
            self._post(event, body)
        if self.value(name) != value:
            self.change(name, self.value(name))

    def _event(self, name: str, event: str) -> tuple[dict, int]:
        trigger = self.id_of(name)
        found = [each for each in self.events if [trigger, event] in each["targets"]]
        # Events that only run a script in the browser have nothing to send.
        return next(each for each in found if each["backend_fn"]), trigger

    def _body(self, event: dict, trigger: int) -> dict:
        return {
            "data": [self.values[number] for number in event["inputs"]],
            "fn_index": event["id"],
            "session_hash": self.session,
            "trigger_id": trigger,
            "event_data": None,
        }

    def fire(self, name: str, event: str) -> int:
        """Do what a click or tick does, for handlers that answer at once; return bytes received."""
        return self._send(*self._event(name, event))

    def fire_all(self, name: str, event: str) -> None:
        """Do what `fire` does, and what follows at once from the answer."""
        self._send_all(*self._event(name, event))

    def _send(self, event: dict, trigger: int) -> int:
        return self._post(event, self._body(event, trigger))

    def _post(self, event: dict, body: dict) -> int:
        answer = self.http.post(f"{API}/run/predict", json=body)
        answer.raise_for_status()
        self._take(event["outputs"], answer.json()["data"])
        return len(answer.content)

    def tick(self) -> int:
        """Do what the timer's script does for the run that is shown; return bytes received."""
        polled = next(
            event["inputs"]
            for event in self.events
            if event["targets"][0][1] == "tick" and not event["backend_fn"]
        )
        run, seen, *choices = [self.values[number] for number in polled]
        if not run:
            return self.fire("run-refresh", "click")
        if self.drawn != seen:
            self.drawn, self.etag = seen, f'"{quote(seen or "")}"'
        answer = self.http.get(
            "/watch",
            params={"run": run, "choices": json.dumps(choices)},
            headers={"If-None-Match": self.etag},
        )
        if answer.status_code == httpx.codes.NOT_MODIFIED:
            return 0
        update = answer.raise_for_status().json()
        if "refresh" in update:
            return len(answer.content) + self.fire("run-refresh", "click")
        self.etag = answer.headers["etag"]
        for name, text in update["parts"].items():
            self.put(name, text)
        return len(answer.content)

    def load(self) -> None:
        """Do what opening the page does."""
        for event in self.events:
            if any(kind == "load" for _, kind in event["targets"]) and event["backend_fn"]:
                self._send_all(event, event["targets"][0][0])

    def _send_all(self, event: dict, trigger: int) -> None:
        """Send an event and those after its answer that are answered at once too."""
        self._send(event, trigger)
        for after in self.events:
            is_next = after["trigger_after"] == event["id"]
            if is_next and after["backend_fn"] and after["queue"] is False:
                self._send_all(after, trigger)

    def stream(self, name: str, event: str, until: Callable[[int], bool] | None = None) -> int:
        """Do what a click does whose handler answers bit by bit; return how many bits came.

        Args:
            name: the component's id in the page.
            event: what happens to it.
            until: called with the bits so far; true stops listening, as closing the tab does.
        """
        found, trigger = self._event(name, event)
        self.http.post(f"{API}/queue/join", json=self._body(found, trigger)).raise_for_status()
        heard, shown = 0, []
        query = {"session_hash": self.session}
        with self.http.stream("GET", f"{API}/queue/data", params=query) as lines:
            for message in _messages(lines):
                if message["msg"] == "process_completed":
                    if not message["success"]:
                        raise RuntimeError(f"{name} {event}: {message['output']}")
                    self._take(found["outputs"], message["output"]["data"])
                    return heard
                if message["msg"] != "process_generating":
                    continue
                # The first bit is whole, the others say what changed since.
                data = message["output"]["data"]
                pairs = zip(shown, data, strict=True) if shown else ()
                shown = [apply_diff(before, change) for before, change in pairs] or data
                self._take(found["outputs"], shown)
                heard += 1
                if until and until(heard):
                    return heard
        raise RuntimeError(f"{name} {event}: the stream ended without a last word")

    def upload(self, path: Path, name: str) -> None:
        """Choose a file in an upload component."""
        with path.open("rb") as file:
            answer = self.http.post(f"{API}/upload", files={"files": (path.name, file)})
        (stored,) = answer.raise_for_status().json()
        about = {"path": stored, "orig_name": path.name, "meta": {"_type": "gradio.FileData"}}
        self.put(name, about)

    def _take(self, outputs: list[int], values: list) -> None:
        for number, value in zip(outputs, values, strict=True):
            if isinstance(value, dict) and value.get("__type__") == "update":
                self.parts[number]["props"].update(value)
                if "value" in value:
                    self.values[number] = value["value"]
            else:
                self.values[number] = value


def _messages(lines: httpx.Response) -> Iterator[dict]:
    for line in lines.iter_lines():
        if line.startswith("data:"):
            yield json.loads(line.removeprefix("data:"))
