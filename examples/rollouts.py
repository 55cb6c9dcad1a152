"""Role `rollout`: a server that tells how far a policy is from the best one. It never ends by itself."""

import json
from http.server import BaseHTTPRequestHandler, HTTPServer

import muster


class Rollouts(BaseHTTPRequestHandler):
    """Answers GET /POLICY."""

    def do_GET(self):
        """Tell the reward of a policy."""
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps({"reward": 1.0 - float(self.path[1:])}).encode())


HTTPServer(("", muster.roles()["rollout"].port), Rollouts).serve_forever()
