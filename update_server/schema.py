"""The tables of the server's database; a change of any line is a new ``SCHEMA_VERSION``."""

from __future__ import annotations

APPLICATION_ID = 0x5EA11F71  # marks the file as a Sealift server's
SCHEMA_VERSION = 1
SCHEMA = (
    # issued: of the newest accepted enrolment, so that an older one cannot be replayed
    """CREATE TABLE devices(device_id TEXT PRIMARY KEY, public_key TEXT NOT NULL, state TEXT NOT NULL, models TEXT NOT NULL,
 facts TEXT NOT NULL, enrolled TEXT NOT NULL, issued TEXT NOT NULL, last_counter INTEGER NOT NULL, generation INTEGER NOT NULL,
 marks TEXT NOT NULL) STRICT""",
    # what a device last said about one model
    """CREATE TABLE device_models(device_id TEXT NOT NULL REFERENCES devices, model TEXT NOT NULL, state TEXT NOT NULL,
 event TEXT NOT NULL, code TEXT, version TEXT, manifest TEXT, floor_epoch INTEGER NOT NULL, floor_n INTEGER NOT NULL,
 PRIMARY KEY(device_id, model)) STRICT""",
    """CREATE TABLE reports(device_id TEXT NOT NULL REFERENCES devices, counter INTEGER NOT NULL, payload_sha256 TEXT NOT NULL,
 received TEXT NOT NULL, envelope BLOB NOT NULL, PRIMARY KEY(device_id, counter)) STRICT""",
    # kind: publisher, device or operator; subject: role, device id or empty
    "CREATE TABLE tokens(sha256 TEXT PRIMARY KEY, kind TEXT NOT NULL, subject TEXT NOT NULL, expires TEXT) STRICT",
    "CREATE INDEX tokens_by_subject ON tokens(kind, subject)",
    "CREATE TABLE offers(model TEXT PRIMARY KEY, version TEXT NOT NULL) STRICT",
    "CREATE TABLE drafts(role TEXT PRIMARY KEY, version INTEGER NOT NULL, bytes BLOB NOT NULL) STRICT",
    """CREATE TABLE audit_log(id INTEGER PRIMARY KEY AUTOINCREMENT, at TEXT NOT NULL, actor TEXT NOT NULL, action TEXT NOT NULL,
 outcome TEXT NOT NULL, code TEXT, detail TEXT NOT NULL) STRICT""",
)
