"""The shell around autoscaling: asks the policies ten times a second and passes on what follows.

The default policy is asked in place. A user's may take its time, so it is asked in a thread, once at a time, while the
controller goes on; one that fails leaves everything as it is.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import pickle
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from swerve.autoscaling_policy import AutoscalingContext, default_autoscaling_policy
from swerve.control.autoscaler import Autoscaler
from swerve.control.events import Scale
from swerve.control.model import DeploymentKey, State
from swerve.control.target import DeploymentTarget
from swerve.deployment_id import DeploymentID

logger = logging.getLogger("swerve.control")

# Ray Serve's RAY_SERVE_CONTROL_LOOP_INTERVAL_S.
INTERVAL_S = 0.1

Contexts = Mapping[DeploymentKey, AutoscalingContext]
# The wished number of replicas, and what to remember.
Answer = tuple[float, dict[str, Any]]
T = TypeVar("T")


class ScalingLoop:
    """Of one instance. `wake` it after each change of the state; it rests while nothing is autoscaled."""

    def __init__(
        self,
        autoscaler: Autoscaler,
        get_state: Callable[[], State],
        get_code: Callable[[str], bytes],
        apply: Callable[[Scale], None],
        tasks: asyncio.TaskGroup,
    ) -> None:
        self._autoscaler = autoscaler
        self._get_state = get_state
        self._get_code = get_code
        self._apply = apply
        self._tasks = tasks
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        # The users' policies by whom they decide for: a deployment, or all of an application (its name is "" then).
        self._policies: dict[DeploymentKey, _Policy] = {}

    def wake(self) -> None:
        if self._timer is None and self._autoscaler.active:
            self._timer = self._loop.call_later(INTERVAL_S, self._turn)

    def _turn(self) -> None:
        self._timer = None
        state = self._get_state()
        asked: dict[DeploymentKey, list[DeploymentKey]] = {}
        for key in self._autoscaler.due(state):
            application = state.owner(key)
            target = state.deployments[key].goal.target
            if application is not None and application.policy_digest:
                asked.setdefault(application.key(""), []).append(key)
            elif target.policy_digest:
                asked[key] = [key]
            else:
                ctx = self._context(key)
                self._settle(key, ctx, default_autoscaling_policy(ctx))
        for unit in self._policies.keys() - asked.keys():
            del self._policies[unit]
        for unit, keys in asked.items():
            self._ask(unit, keys)
        self.wake()

    def _context(self, key: DeploymentKey) -> AutoscalingContext:
        return self._autoscaler.context(self._get_state(), key, self._loop.time(), time.time())

    def _settle(self, key: DeploymentKey, ctx: AutoscalingContext, answer: Answer) -> None:
        now = self._loop.time()
        number = self._autoscaler.decide(key, ctx, answer[0], answer[1], now)
        if number is not None:
            logger.info(
                "%s:%s goes from %d to %d replicas (requests: %.2f, running replicas: %d)",
                key.app,
                key.name,
                ctx.target_num_replicas,
                number,
                ctx.total_num_requests,
                ctx.current_num_replicas,
            )
            self._apply(Scale(now, key, number, autoscaling=True))

    # -- users' policies ----------------------------------------------------------------------------------------------

    def _ask(self, unit: DeploymentKey, keys: Sequence[DeploymentKey]) -> None:
        state = self._get_state()
        targets = {key: state.deployments[key].goal.target for key in keys}
        policy = self._policies.get(unit)
        if policy is None or not policy.is_for(targets):
            whole, application = not unit.name, state.owner(unit)
            assert application is not None
            digest = application.policy_digest if whole else targets[keys[0]].policy_digest
            policy = self._policies[unit] = _Policy(self._get_code(digest), targets, whole=whole)
        if not policy.busy:
            policy.busy = True
            self._tasks.create_task(self._wait_for(unit, policy, {key: self._context(key) for key in keys}))

    async def _wait_for(self, unit: DeploymentKey, policy: _Policy, contexts: Contexts) -> None:
        try:
            answers = await _in_thread(functools.partial(policy.ask, contexts))
            if self._policies.get(unit) is policy:
                for key, answer in answers.items():
                    self._settle(key, contexts[key], answer)
        except Exception as error:
            # The user's code may raise anything. It is asked again soon; the same failure is told once.
            if str(error) != policy.failure:
                policy.failure = str(error)
                logger.exception(
                    "the autoscaling policy of %s:%s failed; the number of replicas stays", unit.app, unit.name
                )
        else:
            policy.failure = ""
        finally:
            policy.busy = False


class _Policy:
    """A user's policy for these deployments; `whole`: one that is asked about all of them at once."""

    def __init__(self, code: bytes, targets: Mapping[DeploymentKey, DeploymentTarget], *, whole: bool) -> None:
        self.busy = False
        self.failure = ""
        self._code = code
        self._targets = targets
        self._whole = whole
        self._function: Callable[..., Any] | None = None
        self._configs: dict[DeploymentKey, Any] = {}

    def is_for(self, targets: Mapping[DeploymentKey, DeploymentTarget]) -> bool:
        """False when something was deployed anew: a class is then instantiated anew."""
        known = self._targets
        return known.keys() == targets.keys() and all(known[key] is target for key, target in targets.items())

    def ask(self, contexts: Contexts) -> dict[DeploymentKey, Answer]:
        """The policy's wishes. In a thread; raises what the policy raises.

        Raises:
            TypeError: what it returned is no wish.
        """
        if self._function is None:
            self._load()
        assert self._function is not None
        told = {key: replace(ctx, config=self._configs[key]) for key, ctx in contexts.items()}
        if not self._whole:
            ((key, ctx),) = told.items()
            return {key: _checked(self._function(ctx), "(number of replicas, dict)")}
        by_id = {ctx.deployment_id: key for key, ctx in told.items()}
        wishes, remembered = _pair(
            self._function({ctx.deployment_id: ctx for ctx in told.values()}), "(dict of numbers of replicas, dict)"
        )
        empty: Mapping[DeploymentID, Any] = remembered or {}
        return {
            by_id[deployment_id]: (wish, dict(empty.get(deployment_id) or {}))
            for deployment_id, wish in wishes.items()
            if deployment_id in by_id
        }

    def _load(self) -> None:
        from swerve.config import AutoscalingConfig

        self._configs = {
            key: AutoscalingConfig.model_validate(target.config["autoscaling_config"])
            for key, target in self._targets.items()
        }
        folders = next(iter(self._targets.values())).import_dirs
        # What the policy's module imports is found where its application imports from.
        sys.path.extend(folders)
        try:
            code = pickle.loads(self._code)
            policy, kwargs = code.target, code.init_kwargs
            self._function = policy(**kwargs) if isinstance(policy, type) else functools.partial(policy, **kwargs)
        finally:
            for folder in folders:
                sys.path.remove(folder)


def _pair(answer: Any, form: str) -> tuple[Any, Any]:
    if not isinstance(answer, tuple) or len(answer) != 2:
        raise TypeError(f"An autoscaling policy must return {form}, got: {answer!r}.")
    return answer


def _checked(answer: Any, form: str) -> Answer:
    wish, remembered = _pair(answer, form)
    return wish, dict(remembered or {})


async def _in_thread(function: Callable[[], T]) -> T:
    """What `function` returns. A daemon thread, because one that hangs must not keep the controller from ending."""
    loop = asyncio.get_running_loop()
    finished: asyncio.Future[T] = loop.create_future()

    def settle(deliver: Callable[[], None]) -> None:
        if not finished.done():
            deliver()

    def work() -> None:
        try:
            deliver: Callable[[], None] = functools.partial(finished.set_result, function())
        except Exception as error:
            deliver = functools.partial(finished.set_exception, error)
        if not loop.is_closed():
            loop.call_soon_threadsafe(settle, deliver)

    threading.Thread(target=work, name="swerve-policy", daemon=True).start()
    return await finished
