-- A file of version 3 of the schema: a session that crashed, with a gap, contexts, a fault and a
-- report; one that runs, with the same fault; and a rejected message.
PRAGMA journal_mode = WAL;
BEGIN TRANSACTION;
CREATE TABLE context_fields (
    name TEXT NOT NULL,
    value TEXT NOT NULL,
    context INTEGER NOT NULL,
    PRIMARY KEY (name, value, context)
) STRICT, WITHOUT ROWID;
INSERT INTO "context_fields" VALUES('level','3',1);
INSERT INTO "context_fields" VALUES('player','p-17',1);
CREATE TABLE contexts (
    key INTEGER PRIMARY KEY,
    text TEXT NOT NULL UNIQUE
) STRICT;
INSERT INTO "contexts" VALUES(1,'{"player": "p-17", "level": 3}');
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
, context INTEGER, fault INTEGER) STRICT;
INSERT INTO "events" VALUES(1,1,1,1,1795531418001,1795531418300,'red-1','1.0','{"ship": "red-3"}',1,NULL);
INSERT INTO "events" VALUES(2,1,2,1,1795531418002,1795531418300,'red-2','1.0','{"damage": "12"}',1,1);
INSERT INTO "events" VALUES(3,1,5,2,1795531418005,1795531418300,'red-5','1.0','{"exception": "KeyError", "message": "Zo\u00eb"}',NULL,NULL);
INSERT INTO "events" VALUES(4,2,1,3,1795531418001,1795531418300,'blue-1',NULL,'{"winner": "Red 3"}',NULL,NULL);
INSERT INTO "events" VALUES(5,2,2,1,1795531418002,1795531418300,'blue-2',NULL,'{"damage": "12"}',NULL,1);
CREATE TABLE faults (
    key INTEGER PRIMARY KEY,
    type INTEGER NOT NULL,
    text TEXT NOT NULL,
    UNIQUE (type, text)
) STRICT;
INSERT INTO "faults" VALUES(1,1,'data.damage: must be an integer');
CREATE TABLE lost (
    cause TEXT PRIMARY KEY,
    events INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
INSERT INTO "lost" VALUES('overflow',1);
CREATE TABLE rejected (
    arrival INTEGER PRIMARY KEY AUTOINCREMENT,
    received INTEGER NOT NULL,
    reason TEXT NOT NULL,
    text BLOB NOT NULL
) STRICT;
INSERT INTO "rejected" VALUES(1,1795531418300,'Object missing required field `sessionId`',X'7B2274797065223A20226C6F6E656C79227D');
CREATE TABLE reports (
    session INTEGER PRIMARY KEY,
    text TEXT NOT NULL
) STRICT;
INSERT INTO "reports" VALUES(1,'{"report":{"sessionId":"red","number":1,"state":"ended","reason":"crashed","startedAt":1795531418000,"at":1795531418009,"lastSeq":6,"emitted":0,"delivered":0,"buffered":0,"rejected":0,"dropped":{},"sampled":{"hit":6},"gaps":[[3,3,"overflow"]],"reconnects":0,"sdk":""}}');
CREATE TABLE runs (
    session INTEGER NOT NULL,
    first INTEGER NOT NULL,
    last INTEGER NOT NULL,
    PRIMARY KEY (session, first)
) STRICT, WITHOUT ROWID;
INSERT INTO "runs" VALUES(1,1,2);
INSERT INTO "runs" VALUES(1,5,5);
INSERT INTO "runs" VALUES(2,1,2);
CREATE TABLE sampled (
    session INTEGER NOT NULL,
    type INTEGER NOT NULL,
    events INTEGER NOT NULL,
    PRIMARY KEY (session, type)
) STRICT, WITHOUT ROWID;
INSERT INTO "sampled" VALUES(1,1,6);
CREATE TABLE session_faults (
    fault INTEGER NOT NULL,
    session INTEGER NOT NULL,
    events INTEGER NOT NULL,
    first INTEGER NOT NULL,
    last INTEGER NOT NULL,
    newest INTEGER NOT NULL,
    PRIMARY KEY (fault, session)
) STRICT, WITHOUT ROWID;
INSERT INTO "session_faults" VALUES(1,1,1,1795531418300,1795531418300,2);
INSERT INTO "session_faults" VALUES(1,2,1,1795531418300,1795531418300,5);
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
, started_at INTEGER, report_number INTEGER, state TEXT, reason TEXT, at INTEGER, reported INTEGER, last_seq INTEGER, lost TEXT NOT NULL DEFAULT '{}', waiting INTEGER NOT NULL DEFAULT 0, crashes INTEGER NOT NULL DEFAULT 0, faults INTEGER NOT NULL DEFAULT 0) STRICT;
INSERT INTO "sessions" VALUES(1,'red','1.0',3,0,3,5,1795531418001,1795531418005,1795531418300,1795531418300,1795531418000,1,'ended','crashed',1795531418009,1795531418300,6,'{"overflow":1,"unexplained":2}',0,1,1);
INSERT INTO "sessions" VALUES(2,'blue',NULL,2,1,0,2,1795531418001,1795531418002,1795531418300,1795531418300,NULL,NULL,NULL,NULL,NULL,NULL,NULL,'{}',0,0,1);
CREATE TABLE types (
    key INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    events INTEGER NOT NULL
, sampled INTEGER NOT NULL DEFAULT 0) STRICT;
INSERT INTO "types" VALUES(1,'hit',3,6);
INSERT INTO "types" VALUES(2,'crash',1,0);
INSERT INTO "types" VALUES(3,'round_end',1,0);
CREATE INDEX sessions_by_last_received ON sessions (last_received);
CREATE INDEX events_by_session ON events (session);
CREATE INDEX events_by_type ON events (type);
CREATE INDEX events_by_context ON events (context) WHERE context IS NOT NULL;
CREATE INDEX events_with_fault ON events (arrival, fault) WHERE fault IS NOT NULL;
DELETE FROM "sqlite_sequence";
INSERT INTO "sqlite_sequence" VALUES('events',5);
INSERT INTO "sqlite_sequence" VALUES('rejected',1);
COMMIT;
PRAGMA application_id = 1383481972;
PRAGMA user_version = 3;
