-- What version 1 of the schema wrote: two sessions, one with a gap, and a rejected message.
PRAGMA journal_mode = WAL;
BEGIN TRANSACTION;
CREATE TABLE events (
    arrival INTEGER PRIMARY KEY AUTOINCREMENT,
    session INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    type INTEGER NOT NULL,
    timestamp INTEGER NOT NULL,
    received INTEGER NOT NULL,
    id TEXT NOT NULL,
    version TEXT,
    data TEXT NOT NULL
) STRICT;
INSERT INTO "events" VALUES(1,1,1,1,1795531418001,1795531418300,'red-1','1.0','{"ship": "red-3"}');
INSERT INTO "events" VALUES(2,1,2,1,1795531418002,1795531418300,'red-2','1.0','{}');
INSERT INTO "events" VALUES(3,1,5,2,1795531418005,1795531418300,'red-5','1.0','{"exception": "KeyError"}');
INSERT INTO "events" VALUES(4,2,1,3,1795531418001,1795531418300,'blue-1',NULL,'{}');
INSERT INTO "events" VALUES(5,2,2,1,1795531418002,1795531418300,'blue-2',NULL,'{}');
CREATE TABLE rejected (
    arrival INTEGER PRIMARY KEY AUTOINCREMENT,
    received INTEGER NOT NULL,
    reason TEXT NOT NULL,
    text BLOB NOT NULL
) STRICT;
INSERT INTO "rejected" VALUES(1,1795531418300,'Object missing required field `sessionId`',X'7B2274797065223A20226C6F6E656C79227D');
CREATE TABLE runs (
    session INTEGER NOT NULL,
    first INTEGER NOT NULL,
    last INTEGER NOT NULL,
    PRIMARY KEY (session, first)
) STRICT, WITHOUT ROWID;
INSERT INTO "runs" VALUES(1,1,2);
INSERT INTO "runs" VALUES(1,5,5);
INSERT INTO "runs" VALUES(2,1,2);
CREATE TABLE sessions (
    key INTEGER PRIMARY KEY,
    session_id TEXT NOT NULL UNIQUE,
    version TEXT,
    events INTEGER NOT NULL,
    repeats INTEGER NOT NULL,
    missing INTEGER NOT NULL,
    highest INTEGER NOT NULL,
    first_timestamp INTEGER NOT NULL,
    last_timestamp INTEGER NOT NULL,
    first_received INTEGER NOT NULL,
    last_received INTEGER NOT NULL
) STRICT;
INSERT INTO "sessions" VALUES(1,'red','1.0',3,0,2,5,1795531418001,1795531418005,1795531418300,1795531418300);
INSERT INTO "sessions" VALUES(2,'blue',NULL,2,1,0,2,1795531418001,1795531418002,1795531418300,1795531418300);
CREATE TABLE types (
    key INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    events INTEGER NOT NULL
) STRICT;
INSERT INTO "types" VALUES(1,'hit',3);
INSERT INTO "types" VALUES(2,'crash',1);
INSERT INTO "types" VALUES(3,'round_end',1);
CREATE INDEX sessions_by_last_received ON sessions (last_received);
CREATE INDEX events_by_session ON events (session);
CREATE INDEX events_by_type ON events (type);
DELETE FROM "sqlite_sequence";
INSERT INTO "sqlite_sequence" VALUES('events',5);
INSERT INTO "sqlite_sequence" VALUES('rejected',1);
COMMIT;
PRAGMA application_id = 1383481972;
PRAGMA user_version = 1;
