"""Sources for particular databases, each in a module that imports its own driver.

`imperfect_dollop.sources.sqlalchemy` is behind the extra ``imperfect-dollop[sqlalchemy]``. Nothing
is imported from here, so that a source whose driver is absent costs nothing.
"""
