"""Five instances of the service, on the best broker and the best database that there are: to use, or to be checked.

``python -m examples.students.five`` shows where they are and runs them until Ctrl-C. With ``--check`` it takes away the
database, an instance and the broker instead, one after the other, and looks whether they do as they should.
"""
