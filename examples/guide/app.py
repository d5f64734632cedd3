"""A tea house: every kind of RPC that Swerve serves, in one application of two deployments."""

import asyncio
from collections.abc import AsyncIterator

import grpc
from tea_pb2 import Cup, Order, Receipt, Taste

import swerve as serve
from swerve.grpc_util import RayServegRPCContext
from swerve.handle import DeploymentHandle


@serve.deployment
class PriceList:
    """A deployment behind a handle: plain Python values in and out, no protobuf."""

    def __init__(self, cents: dict[str, int]) -> None:
        self._cents = cents

    def price(self, tea: str) -> int:
        return self._cents[tea]


@serve.deployment(max_ongoing_requests=20)
class TeaHouse:
    """The ingress: its methods have the names of the service's RPCs."""

    def __init__(self, prices: DeploymentHandle) -> None:
        self._prices = prices

    def __call__(self, order: Order) -> Cup:
        # Plain `def`: runs in a thread, so it may block without holding up other calls.
        return Cup(text=f"{order.tea} for {order.guest}", number=order.cups)

    @serve.multiplexed(max_num_models_per_replica=2)
    async def recipe(self, model_id: str) -> str:
        # Called once for each model and replica; the least recently used model makes room.
        return f"{model_id}, steeped for three minutes"

    async def Multiplexing(self, taste: Taste) -> Cup:
        return Cup(text=await self.recipe(serve.get_multiplexed_model_id()), number=1)

    async def Streaming(self, order: Order) -> AsyncIterator[Cup]:
        for number in range(1, order.cups + 1):
            yield Cup(text=f"{order.tea} for {order.guest}", number=number)
            await asyncio.sleep(0.05)

    async def Bill(self, order: Order, grpc_context: RayServegRPCContext) -> Receipt:
        try:
            cents = await self._prices.price.remote(order.tea)
        except KeyError:
            # The exception that another deployment raised arrives here with its type.
            grpc_context.abort(grpc.StatusCode.NOT_FOUND, f"there is no {order.tea} today")
        grpc_context.set_trailing_metadata([("currency", "EUR")])
        return Receipt(text=f"{order.cups} x {order.tea}", cents=cents * order.cups)


app = TeaHouse.bind(PriceList.bind({"sencha": 350, "assam": 290}))
