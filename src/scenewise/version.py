"""The version, readable without importing anything heavy."""

VERSION = "0.1.0.dev0"
