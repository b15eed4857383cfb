"""What every reader is asked of a table: per dataset and date the rows, and per column exact facts; and whole rows, cell by cell."""

# Facts per column, by the kind of its type. Sums run in 128 bits everywhere.
FACTS = {
    "number": ("count", "sum", "min", "max"),
    "time": ("count", "sum", "min", "max"),
    "text": ("count", "bytes", "distinct", "min", "max"),
    "bytes": ("count", "bytes"),
    "date": ("count", "min", "max"),
    "truth": ("count", "true"),
}
KINDS = {"VARCHAR": "text", "BYTEA": "bytes", "DATE": "date", "BOOLEAN": "truth", "INTEGER": "number", "BIGINT": "number"}
# In SQL these say more than the file: where a row has none, that of the instrument valid at its time (docs/architecture.md).
FILLED = {"currency", "price_unit"}
# Rows of a table that are compared cell by cell; of larger tables every n-th offset.
ROWS_COMPARED = 2_000


def kind(sql_type):
    if sql_type.startswith("TIMESTAMP"):
        return "time"
    if sql_type.startswith("DECIMAL"):
        return "number"
    return KINDS[sql_type]


def is_filled(table, column):
    return column in FILLED and table != "instruments"


def facts_of(table, columns):
    """(fact, column, kind) in the order in which every reader answers. A float type has no kind: it would be an error here."""
    compared = [(name, kind(sql_type)) for name, sql_type in columns.items() if not is_filled(table, name)]
    return [(fact, name, kind_) for name, kind_ in compared for fact in FACTS[kind_]]


def step(rows):
    """Every how manieth offset is compared cell by cell."""
    return -(-rows // ROWS_COMPARED) or 1
