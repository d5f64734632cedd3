"""What several HTTP tests ask of an instance."""

import re

import httpx


def under_way(url: str) -> int:
    """The HTTP requests that the proxies have under way."""
    text = httpx.get(f"{url}/-/metrics").text
    return sum(int(count) for count in re.findall(r"^ray_serve_num_ongoing_http_requests{.*} (\d+)$", text, re.M))
