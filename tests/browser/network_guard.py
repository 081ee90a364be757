"""A custom node without nodes: it writes down every connection that the server's Python opens, and who opened it."""

import json
import os
import sys
import traceback

EVENTS = ("socket.connect", "socket.sendto", "socket.getaddrinfo", "socket.gethostbyname", "subprocess.Popen")
LOG = os.path.join(os.path.dirname(__file__), "connections.jsonl")
NODE_CLASS_MAPPINGS: dict = {}


def note(event, arguments):
    if event in EVENTS:
        files = [frame.filename for frame in traceback.extract_stack()]
        with open(LOG, "a", encoding="utf-8") as file:
            file.write(json.dumps({"event": event, "what": repr(arguments)[:300], "files": files}) + "\n")


sys.addaudithook(note)
