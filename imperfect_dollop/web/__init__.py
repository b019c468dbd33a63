"""A node in a web application, each framework in a module that imports it.

`imperfect_dollop.web.fastapi` is behind the extra ``imperfect-dollop[fastapi]``, `imperfect_dollop.web.aiohttp` behind
``imperfect-dollop[aiohttp]``. `imperfect_dollop.web.health` needs no framework. Nothing is imported from here, so that
a framework that is absent costs nothing.
"""
