"""The exact schema of the device's database. A file with any other is refused, never repaired or migrated by guess.

``user_version`` counts formats. A newer client migrates an older file in one transaction; an older client refuses a
newer file (F09: a downgrade must not lower what is remembered). Format 2 added ``ADDED_IN_2``.
"""

from __future__ import annotations

APPLICATION_ID = 0x5EA11F7D
USER_VERSION = 2

TABLES: dict[str, str] = {
    # One row: this device. `report_counter` is the last one used.
    "device": """CREATE TABLE device (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    generation INTEGER NOT NULL CHECK (generation >= 1),
    report_counter INTEGER NOT NULL CHECK (report_counter >= 0),
    token TEXT,
    enrolment TEXT
) STRICT""",
    # Every root that was verified here, by version. Never changed, never removed.
    "roots": """CREATE TABLE roots (
    version INTEGER PRIMARY KEY,
    data BLOB NOT NULL
) STRICT""",
    # Version marks of TUF roles, bound to the keys and threshold that signed them.
    "marks": """CREATE TABLE marks (
    role TEXT NOT NULL,
    keyset TEXT NOT NULL,
    version INTEGER NOT NULL,
    sha256 TEXT NOT NULL,
    PRIMARY KEY (role, keyset)
) STRICT""",
    # What time it was at least, by what a role's keys signed: `seconds` into the boot `boot`. Readings are never lowered.
    "times": """CREATE TABLE times (
    role TEXT NOT NULL,
    keyset TEXT NOT NULL,
    time TEXT NOT NULL,
    boot TEXT NOT NULL,
    seconds REAL NOT NULL,
    PRIMARY KEY (role, keyset)
) STRICT""",
    # A bundle that was activated here, at any time. Never changed.
    "deployments": """CREATE TABLE deployments (
    id INTEGER PRIMARY KEY,
    model TEXT NOT NULL,
    version TEXT NOT NULL,
    manifest TEXT NOT NULL,
    variant TEXT NOT NULL,
    variant_digest TEXT NOT NULL,
    epoch INTEGER NOT NULL,
    n INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    installed TEXT NOT NULL
) STRICT""",
    # The signed files that a deployment rested on, as fetched.
    "evidence": """CREATE TABLE evidence (
    deployment INTEGER NOT NULL REFERENCES deployments (id),
    name TEXT NOT NULL,
    data BLOB NOT NULL,
    PRIMARY KEY (deployment, name)
) STRICT""",
    # What runs, and what ran before it.
    "active": """CREATE TABLE active (
    model TEXT PRIMARY KEY,
    deployment INTEGER NOT NULL REFERENCES deployments (id),
    previous INTEGER REFERENCES deployments (id)
) STRICT""",
    # The highest committed release counter of a model, with the bundle that carried it. Never lowered.
    "counters": """CREATE TABLE counters (
    model TEXT PRIMARY KEY,
    epoch INTEGER NOT NULL,
    n INTEGER NOT NULL,
    manifest TEXT NOT NULL
) STRICT""",
    # Which bundle carried a version here. Never changed, also when the deployments themselves are lost.
    "names": """CREATE TABLE names (
    model TEXT NOT NULL,
    version TEXT NOT NULL,
    manifest TEXT NOT NULL,
    PRIMARY KEY (model, version)
) STRICT""",
    # Never lowered.
    "floors": """CREATE TABLE floors (
    model TEXT PRIMARY KEY,
    epoch INTEGER NOT NULL,
    n INTEGER NOT NULL
) STRICT""",
    # The highest `seq` of a bundle's audit entry that was acted upon. Never lowered.
    "seqs": """CREATE TABLE seqs (
    model TEXT NOT NULL,
    manifest TEXT NOT NULL,
    seq INTEGER NOT NULL,
    PRIMARY KEY (model, manifest)
) STRICT""",
    # Withdrawn bundles (`kind` manifest) and runtime bytes (`kind` variant), with the seq that withdrew them. Never removed.
    "withdrawals": """CREATE TABLE withdrawals (
    model TEXT NOT NULL,
    kind TEXT NOT NULL CHECK (kind IN ('manifest', 'variant')),
    digest TEXT NOT NULL,
    seq INTEGER NOT NULL,
    PRIMARY KEY (model, kind, digest)
) STRICT""",
    # Bundles that failed their self-test here. `until` is null for ever, or when a cause of memory or time is forgiven.
    "known_bad": """CREATE TABLE known_bad (
    model TEXT NOT NULL,
    manifest TEXT NOT NULL,
    cause TEXT NOT NULL,
    until TEXT,
    PRIMARY KEY (model, manifest)
) STRICT""",
    # On how many days something held for the running model: its proofs expired, it is behind, an update is withheld.
    "patience": """CREATE TABLE patience (
    model TEXT NOT NULL,
    kind TEXT NOT NULL CHECK (kind IN ('expired', 'behind', 'withheld')),
    days INTEGER NOT NULL CHECK (days >= 0),
    last_day TEXT,
    PRIMARY KEY (model, kind)
) STRICT""",
    # Models that the owner's policy keeps from running, and why. Gone with the cause.
    "stopped": """CREATE TABLE stopped (
    model TEXT PRIMARY KEY,
    code TEXT NOT NULL,
    since TEXT NOT NULL
) STRICT""",
    # What has been told and still holds, so that it is told once. `subject` is what it is about: a bundle, a version.
    "alarms": """CREATE TABLE alarms (
    model TEXT NOT NULL,
    code TEXT NOT NULL,
    subject TEXT NOT NULL,
    since TEXT NOT NULL,
    PRIMARY KEY (model, code, subject)
) STRICT""",
    # Until when the proofs of the running bundle count, as far as they were seen; for days on which no server answers.
    "proofs": """CREATE TABLE proofs (
    model TEXT PRIMARY KEY,
    until TEXT NOT NULL
) STRICT""",
    # What is under way; the state is stored before it is acted upon.
    "progress": """CREATE TABLE progress (
    model TEXT PRIMARY KEY,
    state TEXT NOT NULL,
    version TEXT,
    manifest TEXT,
    since TEXT NOT NULL
) STRICT""",
    # Signed reports that the server has not acknowledged.
    "outbox": """CREATE TABLE outbox (
    counter INTEGER PRIMARY KEY,
    envelope BLOB NOT NULL
) STRICT""",
    # What happened, for people; the oldest rows go first.
    "journal": """CREATE TABLE journal (
    id INTEGER PRIMARY KEY,
    at TEXT NOT NULL,
    model TEXT NOT NULL,
    event TEXT NOT NULL,
    version TEXT,
    code TEXT,
    detail TEXT
) STRICT""",
}

ADDED_IN_2 = ("times", "names", "patience", "stopped", "alarms", "proofs")
FILLED_IN_2 = "INSERT OR IGNORE INTO names SELECT model, version, manifest FROM deployments ORDER BY id"
