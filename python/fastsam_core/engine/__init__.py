"""The module `engine.results`, an import path of the Ultralytics package."""
