"""Answers to questions about what happened: one definition, over two back ends.

``questions`` has the questions and their answers, as records. Each answer is defined in SQL over
relations that a back end makes: ``rows`` of the tables with SQLite, ``vectors`` of the columns with
DuckDB, which needs the extra. ``asking`` chooses the back end and asks.
"""
