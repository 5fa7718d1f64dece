"""From one format to another, and mended: checked, resumable, episode by episode."""
