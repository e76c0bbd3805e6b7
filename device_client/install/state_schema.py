"""The exact schema of the device's database. A file with any other is refused, never repaired or migrated by guess.

``user_version`` counts formats. A newer client migrates an older file in one transaction; an older client refuses a
newer file (F09: a downgrade must not lower what is remembered). ``ADDED`` says what each format brought.
"""

from __future__ import annotations

APPLICATION_ID = 0x5EA11F7D
USER_VERSION = 3

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
    # Deployments that were observed good here: what a device may go back to.
    "commits": """CREATE TABLE commits (
    deployment INTEGER PRIMARY KEY REFERENCES deployments (id)
) STRICT""",
    # The bundle that came with the device: never collected, the last one to go back to.
    "factory": """CREATE TABLE factory (
    model TEXT PRIMARY KEY,
    deployment INTEGER NOT NULL REFERENCES deployments (id)
) STRICT""",
    # The active bundle while it is watched, with what was counted. `elapsed_s` is uptime by second `seconds` of boot `boot`.
    "probation": """CREATE TABLE probation (
    model TEXT PRIMARY KEY,
    deployment INTEGER NOT NULL REFERENCES deployments (id),
    boot TEXT NOT NULL,
    seconds REAL NOT NULL,
    elapsed_s REAL NOT NULL CHECK (elapsed_s >= 0),
    boots INTEGER NOT NULL CHECK (boots >= 0),
    runs INTEGER NOT NULL CHECK (runs >= 0),
    failures INTEGER NOT NULL CHECK (failures >= 0),
    non_finite INTEGER NOT NULL CHECK (non_finite >= 0),
    crashes INTEGER NOT NULL CHECK (crashes >= 0),
    votes_good INTEGER NOT NULL CHECK (votes_good >= 0),
    votes_bad INTEGER NOT NULL CHECK (votes_bad >= 0)
) STRICT""",
    # Self-tests that were begun and did not end: a model that takes the machine down with it is not tried for ever.
    "tries": """CREATE TABLE tries (
    model TEXT NOT NULL,
    manifest TEXT NOT NULL,
    tries INTEGER NOT NULL CHECK (tries >= 0),
    PRIMARY KEY (model, manifest)
) STRICT""",
    # The release that this device wants and does not take yet, with the uptime that it has been waiting.
    "waiting": """CREATE TABLE waiting (
    model TEXT PRIMARY KEY,
    manifest TEXT NOT NULL,
    boot TEXT NOT NULL,
    seconds REAL NOT NULL,
    elapsed_s REAL NOT NULL CHECK (elapsed_s >= 0)
) STRICT""",
    # The last decision about a model, as JSON, for people.
    "decisions": """CREATE TABLE decisions (
    model TEXT PRIMARY KEY,
    data BLOB NOT NULL
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

ADDED: dict[int, tuple[str, ...]] = {
    2: ("times", "names", "patience", "stopped", "alarms", "proofs"),
    3: ("commits", "factory", "probation", "tries", "waiting", "decisions"),
}
FILLED: dict[int, str] = {
    2: "INSERT OR IGNORE INTO names SELECT model, version, manifest FROM deployments ORDER BY id",
    # Before format 3 a bundle was committed in the transaction that activated it.
    3: "INSERT INTO commits SELECT id FROM deployments",
}
