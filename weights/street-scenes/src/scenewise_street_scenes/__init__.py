"""The weights of ``street-scenes``, a file beside this one, which ``scenewise.load("street-scenes")`` finds."""
