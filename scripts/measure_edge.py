"""Bytes and latency of a divided policy against sending pictures, over emulated links on loopback.

    python scripts/measure_edge.py --checkpoint nano --steps 20

Frames are an episode of Meta-World, driven by the policy itself. Prints one Markdown table, and how far the actions
are from those of the undivided policy, in bfloat16.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "serve"))
from slow_link import slow_link

from openvla.infer.policy import LocalPolicy, load_policy
from openvla.infer.split import EdgeEncoder, load_edge
from openvla.serve.edge import EdgePolicy
from openvla.serve.features.features import EncodedObservation, Encoding, from_bf16, quantise, to_bf16
from openvla.sim.metaworld import IMAGE_SIZE
from openvla.sim.suites import SUITES
from openvla.spec import Observation

LINKS = {
    "1 Gbit/s, 1 ms": {"bits_per_s": 1e9, "delay_s": 0.0005},
    "50 Mbit/s, 10 ms": {"bits_per_s": 5e7, "delay_s": 0.005},
    "50 Mbit/s, 10 ms, 1 % loss": {"bits_per_s": 5e7, "delay_s": 0.005, "loss": 0.01},
    "10 Mbit/s, 80 ms": {"bits_per_s": 1e7, "delay_s": 0.04},
    "2 Mbit/s, 80 ms": {"bits_per_s": 2e6, "delay_s": 0.04},
}
WAYS = {
    "JPEG, quality 90": {"cut": "image"},
    "encoders, bf16": {"cut": "encoders"},
    "encoders, int8": {"cut": "encoders", "encodings": ("int8",)},
    "projector, bf16": {"cut": "projector"},
    "projector, int8": {"cut": "projector", "encodings": ("int8",)},
    "projector, int8, changes over 10 %": {"cut": "projector", "encodings": ("int8",), "tolerance": 0.1},
    "auto, bf16 or int8": {"encodings": ("bf16", "int8")},
}


def frames(policy: LocalPolicy, task: str, count: int) -> list[Observation]:
    """What the policy sees in one episode."""
    world = SUITES["metaworld"].build(task, IMAGE_SIZE)
    seen = [world.reset(0)]
    while len(seen) < count:
        seen.append(world.step(policy.act(seen[-1]).values[0]).observation)
    world.close()
    return seen


def actions(policy: LocalPolicy, observations: list[Observation]) -> tuple[np.ndarray, np.ndarray]:
    """Values and tokens, each observation alone."""
    stepper, values, tokens = policy.stepper(1), [], []
    for observation in observations:
        stepper.admit(0, observation)
        while not (finished := stepper.step()):
            pass
        values.append(finished[0][1].values)  # type: ignore[union-attr]
        tokens.append(finished[0][1].tokens)  # type: ignore[union-attr]
    return np.array(values), np.array(tokens)


def encoded(edge: EdgeEncoder, seen: Observation, cut: str, encoding: Encoding) -> Observation:
    """What a server makes of the features."""
    features = edge.encode(seen, cut)
    if encoding == "int8":
        steps, scales = quantise(from_bf16(features))
        features = to_bf16(steps * scales[:, None])
    return EncodedObservation(np.zeros((1, 1, 3), np.uint8), seen.instruction, features=features, cut=cut)


def compare(checkpoint: str, seen: list[Observation]) -> None:
    """Actions of the divided policy against those of the undivided one, both in bfloat16."""
    policy, edge = load_policy(checkpoint, dtype="bf16"), load_edge(checkpoint, dtype="bf16")
    values, tokens = actions(policy, seen)
    span = np.ptp(values, (0, 1)).clip(1e-9)
    for cut in edge.cuts:
        for encoding in ("bf16", "int8"):
            ours, chosen = actions(policy, [encoded(edge, each, cut, encoding) for each in seen])
            error = np.abs(ours - values) / span
            same = "the same" if (ours == values).all() else "not the same"
            print(
                f"{cut}, {encoding}: values {same}, {100 * (chosen == tokens).mean():.1f} % of tokens equal; "
                f"difference mean {100 * error.mean():.2f} %, max {100 * error.max():.2f} % of the range used",
                flush=True,
            )


def wait_until_warm(url: str) -> None:
    """Return once the server acts."""
    while True:
        try:
            with urllib.request.urlopen(url + "/healthz", timeout=5):
                return
        except urllib.error.HTTPError:
            time.sleep(0.2)


def measure(url: str, edge: EdgeEncoder, seen: list[Observation], links: list[str]) -> None:
    """The table."""
    host, port = url.removeprefix("http://").split(":")
    print("| link | what travels | bytes a step | p50 ms | p95 ms | edge ms |\n|---|---|---|---|---|---|")
    for link_name, properties in ((name, LINKS[name]) for name in links):
        for way_name, settings in WAYS.items():
            with slow_link(host, int(port), **properties) as link:
                policy = EdgePolicy(f"ws://127.0.0.1:{link.address[1]}", edge, timeout_s=10.0, hold=False, **settings)  # type: ignore[arg-type]
                taken, sizes, encoding, ways = [], [], [], []
                for number, observation in enumerate(seen):
                    action = policy.act(observation)
                    if number >= 6:  # connection, first measurements
                        taken.append(action.timing_ms["total"])
                        encoding.append(action.timing_ms["edge"])
                        sizes.append(policy.sent_bytes)
                        ways.append(policy.way)
                policy.close()
            end = f" (took {ways[-1].cut}, {ways[-1].encoding})" if "auto" in way_name else ""
            p50, p95 = np.percentile(taken, [50, 95])
            print(
                f"| {link_name} | {way_name}{end} | {np.mean(sizes):.0f} | {p50:.0f} | {p95:.0f} | "
                f"{np.median(encoding):.0f} |",
                flush=True,
            )


def main() -> None:
    """Print both."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", default="nano")
    parser.add_argument("--task", default="drawer-open")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--links", nargs="+", choices=list(LINKS), default=list(LINKS))
    options = parser.parse_args()
    policy = load_policy(options.checkpoint)
    seen = frames(policy, options.task, options.steps)
    del policy
    compare(options.checkpoint, seen)
    command = [sys.executable, "-c", "import sys; from openvla.cli.main import main; sys.exit(main(sys.argv[1:]))"]
    command += ["serve", "--checkpoint", options.checkpoint, "--port", "0", "--audit", "/dev/null"]
    server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        assert server.stderr is not None
        url = next(line.split()[-1] for line in server.stderr if " at http" in line)
        edge = load_edge(options.checkpoint)
        wait_until_warm(url)
        measure(url, edge, seen, options.links)
    finally:
        server.terminate()
        server.wait()


if __name__ == "__main__":
    main()
