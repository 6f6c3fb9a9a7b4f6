"""The data store of a device or site: holds the data sets of its own proplets and gives each only its own."""
