"""A shape in the forms that other tools load. Imports neither torch nor transformers."""

from hwsearch.export.write import FORMATS, config_beside_weights, exports, write_export

__all__ = ["FORMATS", "config_beside_weights", "exports", "write_export"]
