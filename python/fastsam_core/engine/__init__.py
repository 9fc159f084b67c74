"""The import path `engine.results`, as users of the Ultralytics package know it."""
