"""Deploys, calls and deletes an application again and again, on the running instance: `deploy_rounds.py ROUNDS`."""

import sys

import swerve as serve


@serve.deployment
class Echo:
    def __call__(self, number: int) -> int:
        return number


def main(rounds: int) -> None:
    for number in range(rounds):
        handle = serve.run(Echo.bind(), name="echo", route_prefix="/echo")
        if handle.remote(number).result(timeout_s=30) != number:
            raise RuntimeError(f"round {number} got a wrong answer")
        serve.delete("echo")


if __name__ == "__main__":
    main(int(sys.argv[1]))
