"""Other readers of the Delta tables agree with `tape sql`: rows, exact sums, first and last times, and whole rows cell by cell."""

import decimal
import os

import deltalake

import questions
import readers


def compare(tape, label, others, results):
    """Every table of a home, with every reader. Gives (rows, tables, tables with rows without a date)."""
    requests, said = {}, {}
    for table, columns in tape.columns().items():
        uri = os.path.join(tape.home, "tables", table)
        if not os.path.isdir(uri):  # a table is made when its first row comes
            rows = tape.ask(f"SELECT count(*) AS n FROM {table}")[0]["n"]
            if int(rows):
                results.failed(f"{label}: {table}", [f"tape sql has {rows} rows, and there is no table"])
            continue
        check_columns(label, table, uri, columns, results)
        wanted = questions.facts_of(table, columns)
        compared = {name: sql_type for name, sql_type in columns.items() if not questions.is_filled(table, name)}
        facts = readers.tape_facts(tape, table, columns, wanted)
        rows = sum(row[0] for row in facts.values())
        step = questions.step(rows)
        requests[table] = (uri, wanted, list(compared), step)
        said[table] = (facts, readers.tape_cells(tape, table, compared, step), rows)
    for reader in others:
        try:
            answers = reader.answers(requests)
        except Exception as why:  # a reader that refuses a table is a finding, not an end of the run
            results.failed(f"{label}: {reader.name}", [f"{type(why).__name__}: {why}"])
            continue
        for table, (facts, cells) in answers.items():
            differences = differing_facts(requests[table][1], said[table][0], facts)
            differences += differing_cells(requests[table][2], said[table][1], cells)
            results.settle(f"{label}: {table}, {said[table][2]} rows, {len(cells)} of them cell by cell: {reader.name}", differences)
    filled = {table: rows for table, (_, _, rows) in said.items() if rows}
    undated = [table for table, (facts, _, _) in said.items() if any(date is None for _, date in facts) and is_daily(requests[table][0])]
    return sum(filled.values()), sorted(filled), undated


def is_daily(uri):
    return "date" in deltalake.DeltaTable(uri).metadata().partition_columns


def check_columns(label, table, uri, columns, results):
    """The Delta schema has the columns of the dictionary, and no float."""
    schema = deltalake.DeltaTable(uri).schema()
    names = [field.name for field in schema.fields]
    differences = [] if names == list(columns) else [f"Delta has {names}, the dictionary {list(columns)}"]
    differences += [f"{field.name} is {field.type}" for field in schema.fields if str(field.type.type) in ("float", "double")]
    if differences:
        results.failed(f"{label}: columns of {table}", differences)


def differing_facts(wanted, expected, found):
    differences = [f"no rows of dataset {key[0]}, date {key[1]}" for key in expected.keys() - found.keys()]
    differences += [f"rows of dataset {key[0]}, date {key[1]} that tape sql does not have" for key in found.keys() - expected.keys()]
    for key in expected.keys() & found.keys():
        names = [("count", "*", "number"), *wanted]
        for (fact, column, kind), ours, theirs in zip(names, expected[key], found[key], strict=True):
            if not same(fact, ours, theirs):
                differences.append(f"dataset {key[0]}, date {key[1]}: {fact}({column}): tape sql {ours!r}, the reader {theirs!r}")
    return differences


def differing_cells(columns, expected, found):
    if expected.keys() != found.keys():
        return [f"other rows: {len(expected)} by tape sql, {len(found)} by the reader"]
    return [
        f"partition {key[0]}, offset {key[1]}: {column}: tape sql {ours!r}, the reader {theirs!r}"
        for key in expected
        for column, ours, theirs in zip(columns, expected[key], found[key], strict=True)
        if not same("cell", ours, theirs)
    ]


def same(fact, ours, theirs):
    """Equal to the last digit. A sum over nothing is NULL for some readers and 0 for others; a float is never equal."""
    if isinstance(ours, float) or isinstance(theirs, float):
        return False
    if fact in ("sum", "bytes", "true"):
        return decimal.Decimal(ours or 0) == decimal.Decimal(int(theirs) if isinstance(theirs, bool) else theirs or 0)
    return ours == theirs and (ours is None) == (theirs is None)
