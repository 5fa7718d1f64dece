"""Waiting for the policy, in turn and in time, and running together."""
