"""The readers: each answers the same questions of a Delta table, in exact Python values."""

import pickle
import subprocess

import deltalake
import duckdb
import polars

import duck
import questions
from tape import typed

TAPE_FACTS = {
    "count": "count({0})",
    "min": "min({0})",
    "max": "max({0})",
    "distinct": "count(DISTINCT {0})",
    "true": "count(*) FILTER (WHERE {0})",
}
# Sums of integers and times in 38 digits; bytes are counted by their hexadecimal text.
TAPE_SUMS = {"number": "sum(CAST({0} AS DECIMAL(38,0)))", "time": "sum(CAST(CAST({0} AS BIGINT) AS DECIMAL(38,0)))"}
TAPE_BYTES = {"text": "sum(octet_length({0}))", "bytes": "sum(octet_length(encode({0}, 'hex'))) / 2"}


def tape_expression(fact, column, kind, sql_type):
    form = TAPE_FACTS.get(fact)
    if fact == "sum":
        form = "sum({0})" if sql_type.startswith("DECIMAL") else TAPE_SUMS[kind]
    if fact == "bytes":
        form = TAPE_BYTES[kind]
    return form.format(f'"{column}"')


def tape_facts(tape, table, columns, wanted):
    """(dataset, date) → rows and facts, as `tape sql` has them."""
    asked = ", ".join(f"{tape_expression(*one, columns[one[1]])} AS f{i}" for i, one in enumerate(wanted))
    rows = tape.ask(f"SELECT dataset, date, count(*) AS n, {asked} FROM {table} GROUP BY dataset, date")

    def value(row, i):
        fact, column, _ = wanted[i]
        return typed(row[f"f{i}"], columns[column]) if fact in ("min", "max") else row[f"f{i}"]

    return {
        (row["dataset"], typed(row["date"], "DATE")): (row["n"], *(value(row, i) for i in range(len(wanted)))) for row in rows
    }


def tape_cells(tape, table, columns, step):
    """(_partition, _offset) → cells, as `tape sql` has them."""
    asked = ", ".join(f'"{column}"' for column in columns)
    rows = tape.ask(f"SELECT {asked} FROM {table} WHERE _offset % {step} = 0")
    return {(row["_partition"], row["_offset"]): tuple(typed(row[name], columns[name]) for name in columns) for row in rows}


def rows(uri):
    """Rows of a table by its Delta log."""
    return deltalake.DeltaTable(uri).count()


class DuckDbFiles:
    """DuckDB over the files that Python's deltalake names."""

    name = f"DuckDB {duckdb.__version__} over the files of deltalake {deltalake.__version__}"

    def answers(self, requests):
        connection = duckdb.connect()
        # A table without rows has no files, and read_parquet wants at least one.
        return {table: self.answer(connection, *request) if rows(request[0]) else ({}, {}) for table, request in requests.items()}

    def answer(self, connection, uri, wanted, columns, step):
        # Only what is a partition column may be read from a path; DATE is what the Delta log says of `date`.
        relation = "read_parquet(?, hive_partitioning = true, hive_types = {'dataset': VARCHAR, 'date': DATE})"
        table = deltalake.DeltaTable(uri)
        if "date" not in table.metadata().partition_columns:
            relation = "read_parquet(?, hive_partitioning = true, hive_types = {'dataset': VARCHAR})"
        files = [table.file_uris()]
        return duck.facts(connection, relation, files, wanted), duck.cells(connection, relation, files, columns, step)


class DuckDbDelta:
    """DuckDB with its Delta extension, in the environment of `python`."""

    def __init__(self, python):
        self.python = python
        self.name = "DuckDB delta_scan"

    def answers(self, requests):
        done = subprocess.run([self.python, duck.__file__], input=pickle.dumps(requests), capture_output=True, check=False)
        if done.returncode != 0:
            raise RuntimeError(done.stderr.decode())
        version, answers = pickle.loads(done.stdout)
        self.name = f"DuckDB {version} delta_scan"
        return answers


class Polars:
    """Polars' own Delta scan."""

    name = f"Polars {polars.__version__} scan_delta"

    def answers(self, requests):
        return {table: self.answer(*request) for table, request in requests.items()}

    def answer(self, uri, wanted, columns, step):
        frame = polars.scan_delta(uri)
        types = frame.collect_schema()
        asked = [polars_expression(*one, types[one[1]]).alias(f"f{i}") for i, one in enumerate(wanted)]
        rows = frame.group_by("dataset", "date").agg(polars.len().alias("n"), *asked).collect().rows()
        cells = frame.filter(polars.col("_offset") % step == 0).select(list(columns)).collect()
        partition, offset = cells.columns.index("_partition"), cells.columns.index("_offset")
        return {(row[0], row[1]): row[2:] for row in rows}, {(row[partition], row[offset]): row for row in cells.rows()}


def polars_expression(fact, column, kind, data_type):
    values = polars.col(column)
    if fact == "sum":
        return (values if data_type.is_decimal() else values.cast(polars.Int128)).sum()
    if fact == "bytes":
        return (values.str.len_bytes() if kind == "text" else values.bin.size()).cast(polars.Int64).sum()
    if fact == "distinct":
        return values.drop_nulls().n_unique()
    if fact == "true":
        return values.sum()
    return getattr(values, fact)()
