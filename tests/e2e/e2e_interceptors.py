"""What the secured instance asks before each call; proxies import it by name."""

import asyncio

import grpc


class Tenants:
    """Knows tenants by their token."""

    async def __call__(self, call):
        token = dict(call.invocation_metadata()).get("token", "")
        await asyncio.sleep(0)
        if token == "stolen":
            call.abort(grpc.StatusCode.PERMISSION_DENIED, "This token was stolen.", [("hint", "ask for another")])
        return {"tenant": token or "nobody", "known-by": call.peer_identity_key() or "nothing"}


class Unmakeable:
    def __init__(self):
        raise KeyError("no such setting")

    def __call__(self, call):
        return None
