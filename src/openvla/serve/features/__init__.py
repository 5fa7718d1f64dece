"""What an encoder beside the camera sends instead of a picture."""
