"""The forms in which questions and answers travel: JSON over HTTP, msgpack over WebSockets."""
