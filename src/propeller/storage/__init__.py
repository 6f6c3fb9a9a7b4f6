"""Durable data: SQLite or PostgreSQL with group commit, blobs by their content, and the store of each role.

It knows how data are kept, and nothing of why: no decisions, no messages, no HTTP.

Where things are (`ROLE` is `manager`, `coordinator`, `registry`, `data_store`, …):

    opening.py                      opens what a role's settings say: one of the next two
    sqlite.py                       Database: one file, one writer, many writes per fsync
    postgres.py                     the same promises in a schema of a PostgreSQL server
    connection.py, lanes.py         what stores see of either, and the threads both run on
    queries.py                      Queries: SQL read from named, commented files
    blobs.py, memory_blobs.py       content by SHA-256, on disk and in memory
    blob_cache.py                   the same with a limit: what was not read for longest goes first
    task_logs.py                    what guests printed, in files of bounded size
    ROLE_store.py                   what the role keeps, over Database and Queries
    ROLE_memory.py                  its twin in plain Python, for the same contract suite
    model_store.py, dataset_store.py  of registry and data_store, each with its twin in the same file
    migrations/ROLE/0001_NAME.sql   the schema; forward only, no gaps, never edited once released
    sql/ROLE/THINGS.sql             the queries: blocks that begin with `-- name: insert_task` and a comment
    sql/ROLE/postgres.sql           those that PostgreSQL must be asked in another way
    sql/database/                   the queries of Database itself

`Database.open(path, role=ROLE, base=B)` and `Queries.load(ROLE, "THINGS.sql")` find these folders by the
role. The table `meta` belongs to Database. SQL folders need no `__init__.py`.
"""
