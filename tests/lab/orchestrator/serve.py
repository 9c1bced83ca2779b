"""An HTTP server whose answer is in a file: the status on the first line, then the body.

serve.py PORT FILE
"""

import http.server
import pathlib
import sys


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        status, body = pathlib.Path(sys.argv[2]).read_text().split("\n", 1)
        body = body.encode()
        self.send_response(int(status))
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


server = http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler)
print("serves", flush=True)
server.serve_forever()
