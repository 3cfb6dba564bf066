"""Writers of data sets, one file a format; :mod:`scenewise.data.writers.table` lists them."""
