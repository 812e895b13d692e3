"""An HTTP service that tests talk to: service.py PORT DIRECTORY [CERTIFICATE KEY]

GET /keys        answers with DIRECTORY/keys
POST /judge      answers with what DIRECTORY/answers (JSON) has for the user name, or for ""
DIRECTORY/status if it is there, is the status of every answer
DIRECTORY/hang   while it is there, answers wait
DIRECTORY/asked  gets a line for each request: its path, the header Authorization and its body
"""

import http.server
import json
import os
import ssl
import sys
import time

PORT, DIRECTORY = int(sys.argv[1]), sys.argv[2]


def path(name):
    return os.path.join(DIRECTORY, name)


def read(name):
    with open(path(name), "rb") as file:
        return file.read()


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def note(self, body):
        line = json.dumps([self.path, self.headers.get("Authorization"), body]) + "\n"
        with open(path("asked"), "a", encoding="utf-8") as file:
            file.write(line)

    def answer(self, body):
        while os.path.exists(path("hang")):
            time.sleep(0.01)
        status = int(read("status")) if os.path.exists(path("status")) else 200
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        self.note(None)
        self.answer(read("keys"))

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.note(body)
        answers = json.loads(read("answers"))
        known = body.get("username") if body.get("username") in answers else ""
        answer = answers[known]
        self.answer((answer if isinstance(answer, str) else json.dumps(answer)).encode())


server = http.server.ThreadingHTTPServer(("127.0.0.1", PORT), Handler)
server.daemon_threads = True
if len(sys.argv) > 3:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(sys.argv[3], sys.argv[4])
    server.socket = context.wrap_socket(server.socket, server_side=True)
server.serve_forever()
