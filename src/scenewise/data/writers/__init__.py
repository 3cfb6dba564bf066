"""Writers of data sets, one file per format; :mod:`scenewise.data.writers.table` lists them."""
