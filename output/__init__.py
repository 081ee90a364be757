"""Files that appear whole or not at all, records as JSON, and pictures from figures."""
