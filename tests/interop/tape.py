"""The binary as a user runs it; what `tape sql --format json` prints becomes exact Python values, never a float."""

import datetime
import decimal
import json
import os
import re
import subprocess

# Longest time of one command; a development build is slow.
COMMAND_SECONDS_MAX = 300
NS_PER_SECOND = 1_000_000_000
TIME = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)\.(\d{9})Z")
EPOCH = datetime.datetime(1970, 1, 1)


class Tape:
    """One installation: the binary with the flags that name its home, and its log where that is Kafka."""

    def __init__(self, binary, home, brokers=None, prefix=None):
        self.home = home
        self.command = [binary, "--home", home]
        if brokers:
            self.command += ["--brokers", brokers, "--prefix", prefix]

    def run(self, *arguments, text="", codes=(0,)):
        """Standard output of a command; an exit code that is not among `codes` is an error that shows all it said."""
        done = subprocess.run(
            [*self.command, *arguments], input=text, capture_output=True, text=True, timeout=COMMAND_SECONDS_MAX, env=environment()
        )
        if done.returncode not in codes:
            raise RuntimeError(f"tape {' '.join(arguments)}: exit code {done.returncode}\n{done.stdout}\n{done.stderr}")
        return done.stdout

    def start(self, *arguments):
        """A command that goes on running."""
        return subprocess.Popen(
            [*self.command, *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment()
        )

    def ask(self, statement):
        """The rows of a statement as dictionaries."""
        return json.loads(self.run("sql", "--format", "json", statement), parse_float=decimal.Decimal)

    def columns(self):
        """Stored table → stored column → SQL type, as the data dictionary has them."""
        tables = json.loads(self.run("schema", "--json"))
        # A view has no wire schema; what SQL adds to a table stands behind its last stored column.
        return {table["table"]: stored(table["columns"]) for table in tables if table["schema_id"] is not None}


def stored(columns):
    """Column → SQL type, up to the last one that is in the files."""
    names = [column["name"] for column in columns]
    return {column["name"]: column["type"] for column in columns[: names.index("_raw") + 1]}


def environment():
    """Ours without what would change the meaning of a command."""
    return {name: value for name, value in os.environ.items() if not name.startswith("TAPE_")}


def typed(value, sql_type):
    """A value of the JSON as other readers have it: times as nanoseconds, dates as dates, bytes as bytes."""
    if value is None:
        return None
    if sql_type.startswith("TIMESTAMP"):
        return nanoseconds(value)
    if sql_type == "DATE":
        return datetime.date.fromisoformat(value)
    if sql_type == "BYTEA":
        return bytes.fromhex(value)
    if sql_type.startswith("DECIMAL"):
        return decimal.Decimal(value)
    return value


def nanoseconds(text):
    """2026-10-05T00:03:45.936544945Z → nanoseconds since 1970, in integers."""
    parts = TIME.fullmatch(text)
    if not parts:
        raise ValueError(f"not a time with nine digits in UTC: {text!r}")
    since = datetime.datetime.fromisoformat(parts[1]) - EPOCH
    return (since.days * 86_400 + since.seconds) * NS_PER_SECOND + int(parts[2])
