"""A REST service over a table of students, on FastAPI: every instance answers from its own memory.

`app.create_app` is what uvicorn serves; ``python -m examples.students.five`` runs five instances of it.
"""
