"""What passed and what failed, said as it happens, and the plain last line."""

# Differences that are shown of one failure.
SHOWN_MAX = 12


class Results:
    def __init__(self):
        self.passed_count = 0
        self.failed_count = 0

    def passed(self, what):
        self.passed_count += 1
        print(f"ok    {what}", flush=True)

    def failed(self, what, differences):
        self.failed_count += 1
        print(f"FAIL  {what}")
        for difference in differences[:SHOWN_MAX]:
            print(f"      {difference}")
        if len(differences) > SHOWN_MAX:
            print(f"      … and {len(differences) - SHOWN_MAX} more")

    def settle(self, what, differences):
        if differences:
            self.failed(what, differences)
        else:
            self.passed(what)

    def last_line(self):
        return f"{self.passed_count} passed, {self.failed_count} failed"
