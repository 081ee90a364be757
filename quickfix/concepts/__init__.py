"""What is asked of the editor: concepts, settings, lists, changes, and the built-in sets of prompts."""
