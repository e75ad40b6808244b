-- A file of version 4 of the schema: a session that crashed, with a gap, contexts, a fault and a
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
INSERT INTO "events" VALUES(1,1,1,1,1795531418001,1795531418300,'','1.0','{"ship": "red-3"}',1,NULL);
INSERT INTO "events" VALUES(2,1,2,1,1795531418002,1795531418300,'','1.0','{"damage": "12"}',1,1);
INSERT INTO "events" VALUES(3,1,5,2,1795531418005,1795531418300,'','1.0','{"exception": "KeyError", "message": "Zo\u00eb"}',NULL,NULL);
INSERT INTO "events" VALUES(4,2,1,3,1795531418001,1795531418300,'',NULL,'{"winner": "Red 3"}',NULL,NULL);
INSERT INTO "events" VALUES(5,2,2,1,1795531418002,1795531418300,'',NULL,'{"damage": "12"}',NULL,1);
CREATE TABLE faults (
    key INTEGER PRIMARY KEY,
    type INTEGER NOT NULL,
    text TEXT NOT NULL,
    UNIQUE (type, text)
) STRICT;
INSERT INTO "faults" VALUES(1,1,'data.damage: must be an integer');
CREATE TABLE leftovers (
    session INTEGER PRIMARY KEY
) STRICT;
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
, started_at INTEGER, report_number INTEGER, state TEXT, reason TEXT, at INTEGER, reported INTEGER, last_seq INTEGER, lost TEXT NOT NULL DEFAULT '{}', waiting INTEGER NOT NULL DEFAULT 0, crashes INTEGER NOT NULL DEFAULT 0, faults INTEGER NOT NULL DEFAULT 0, deleted INTEGER NOT NULL DEFAULT 0, run TEXT) STRICT;
INSERT INTO "sessions" VALUES(1,'red','1.0',3,0,3,5,1795531418001,1795531418005,1795531418300,1795531418300,1795531418000,1,'ended','crashed',1795531418009,1795531418300,6,'{"overflow":1,"unexplained":2}',0,1,1,0,'red');
INSERT INTO "sessions" VALUES(2,'blue',NULL,2,1,0,2,1795531418001,1795531418002,1795531418300,1795531418300,NULL,NULL,NULL,NULL,NULL,NULL,NULL,'{}',0,0,1,0,'blue');
CREATE TABLE text_index (
    partition INTEGER PRIMARY KEY,
    blocks INTEGER NOT NULL,
    events INTEGER NOT NULL DEFAULT 0,
    expired INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE TABLE totals (
    key INTEGER PRIMARY KEY,
    events INTEGER NOT NULL, repeats INTEGER NOT NULL, faults INTEGER NOT NULL, missing_parts INTEGER NOT NULL, missing_rest INTEGER NOT NULL, waiting_parts INTEGER NOT NULL, waiting_rest INTEGER NOT NULL, implausible INTEGER NOT NULL, implausible_parts INTEGER NOT NULL, implausible_rest INTEGER NOT NULL
) STRICT;
INSERT INTO "totals" VALUES(1,5,1,2,0,3,0,0,0,0,0);
CREATE TABLE types (
    key INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    events INTEGER NOT NULL
, sampled INTEGER NOT NULL DEFAULT 0) STRICT;
INSERT INTO "types" VALUES(1,'hit',3,6);
INSERT INTO "types" VALUES(2,'crash',1,0);
INSERT INTO "types" VALUES(3,'round_end',1,0);
CREATE TABLE unended (
    version ANY NOT NULL,
    period INTEGER NOT NULL,
    sessions INTEGER NOT NULL,
    PRIMARY KEY (version, period)
) STRICT, WITHOUT ROWID;
INSERT INTO "unended" VALUES(0,359106283,1);
INSERT INTO "unended" VALUES(1,359106283,1);
CREATE TABLE versions (
    name ANY NOT NULL PRIMARY KEY,
    newest INTEGER NOT NULL,
    unended INTEGER NOT NULL, well INTEGER NOT NULL, switched_off INTEGER NOT NULL, crashed INTEGER NOT NULL, killed INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
INSERT INTO "versions" VALUES(0,1795531418300,1,0,0,0,0);
INSERT INTO "versions" VALUES(1,1795531418300,1,0,0,1,0);
INSERT INTO "versions" VALUES('1.0',1795531418300,0,0,0,1,0);
CREATE INDEX sessions_by_last_received ON sessions (last_received);
CREATE INDEX events_by_session ON events (session);
CREATE INDEX events_by_type ON events (type);
CREATE INDEX events_by_context ON events (context) WHERE context IS NOT NULL;
CREATE INDEX events_with_fault ON events (arrival, fault) WHERE fault IS NOT NULL;
CREATE INDEX versions_by_newest ON versions (newest);
CREATE INDEX sessions_by_version ON sessions (version, first_received);
CREATE INDEX sessions_unended ON sessions (last_received, version, state)
    WHERE state IS NOT 'ended';
CREATE INDEX types_by_events ON types (events DESC, name) WHERE events > 0;
CREATE INDEX types_by_sampled ON types (sampled DESC, name) WHERE sampled > 0;
CREATE INDEX lost_by_events ON lost (events DESC, cause) WHERE events > 0;
CREATE TRIGGER sessions_come AFTER INSERT ON sessions BEGIN
    UPDATE totals SET events = events + (new.events - new.deleted) - (0), repeats = repeats + (new.repeats) - (0), faults = faults + (new.faults) - (0), missing_parts = missing_parts + (new.missing / 4294967296) - (0), missing_rest = missing_rest + (new.missing % 4294967296) - (0), waiting_parts = waiting_parts + (iif((new.missing > 1000000000000), 0, new.waiting / 4294967296)) - (0), waiting_rest = waiting_rest + (iif((new.missing > 1000000000000), 0, new.waiting % 4294967296)) - (0), implausible = implausible + ((new.missing > 1000000000000)) - (0), implausible_parts = implausible_parts + (iif((new.missing > 1000000000000), new.missing / 4294967296, 0)) - (0), implausible_rest = implausible_rest + (iif((new.missing > 1000000000000), new.missing % 4294967296, 0)) - (0);
    INSERT INTO versions VALUES (ifnull(new.version, 0), new.first_received, 0, 0, 0, 0, 0) ON CONFLICT DO NOTHING;
    UPDATE versions SET newest = max(newest, new.first_received), unended = unended + (new.state IS NOT 'ended'), well = well + ifnull(CASE WHEN new.state = 'ended' THEN CASE new.reason WHEN 'switched_off' THEN 'switched_off' WHEN 'crashed' THEN 'crashed' WHEN 'killed' THEN 'killed' ELSE 'well' END END = 'well', 0), switched_off = switched_off + ifnull(CASE WHEN new.state = 'ended' THEN CASE new.reason WHEN 'switched_off' THEN 'switched_off' WHEN 'crashed' THEN 'crashed' WHEN 'killed' THEN 'killed' ELSE 'well' END END = 'switched_off', 0), crashed = crashed + ifnull(CASE WHEN new.state = 'ended' THEN CASE new.reason WHEN 'switched_off' THEN 'switched_off' WHEN 'crashed' THEN 'crashed' WHEN 'killed' THEN 'killed' ELSE 'well' END END = 'crashed', 0), killed = killed + ifnull(CASE WHEN new.state = 'ended' THEN CASE new.reason WHEN 'switched_off' THEN 'switched_off' WHEN 'crashed' THEN 'crashed' WHEN 'killed' THEN 'killed' ELSE 'well' END END = 'killed', 0)
        WHERE name IN (1, ifnull(new.version, 0));
    INSERT INTO unended
        SELECT name, new.last_received / 5000, 1 FROM versions
        WHERE name IN (1, ifnull(new.version, 0)) AND new.state IS NOT 'ended'
        ON CONFLICT DO UPDATE SET sessions = sessions + 1;
END;
CREATE TRIGGER sessions_go AFTER DELETE ON sessions BEGIN
    UPDATE totals SET events = events + (0) - (old.events - old.deleted), repeats = repeats + (0) - (old.repeats), faults = faults + (0) - (old.faults), missing_parts = missing_parts + (0) - (old.missing / 4294967296), missing_rest = missing_rest + (0) - (old.missing % 4294967296), waiting_parts = waiting_parts + (0) - (iif((old.missing > 1000000000000), 0, old.waiting / 4294967296)), waiting_rest = waiting_rest + (0) - (iif((old.missing > 1000000000000), 0, old.waiting % 4294967296)), implausible = implausible + (0) - ((old.missing > 1000000000000)), implausible_parts = implausible_parts + (0) - (iif((old.missing > 1000000000000), old.missing / 4294967296, 0)), implausible_rest = implausible_rest + (0) - (iif((old.missing > 1000000000000), old.missing % 4294967296, 0));
    UPDATE unended SET sessions = sessions - 1
        WHERE version IN (1, ifnull(old.version, 0)) AND period = old.last_received / 5000 AND old.state IS NOT 'ended';
    DELETE FROM unended WHERE version IN (1, ifnull(old.version, 0)) AND period = old.last_received / 5000 AND sessions = 0;
    UPDATE versions SET unended = unended - (old.state IS NOT 'ended'), well = well - ifnull(CASE WHEN old.state = 'ended' THEN CASE old.reason WHEN 'switched_off' THEN 'switched_off' WHEN 'crashed' THEN 'crashed' WHEN 'killed' THEN 'killed' ELSE 'well' END END = 'well', 0), switched_off = switched_off - ifnull(CASE WHEN old.state = 'ended' THEN CASE old.reason WHEN 'switched_off' THEN 'switched_off' WHEN 'crashed' THEN 'crashed' WHEN 'killed' THEN 'killed' ELSE 'well' END END = 'switched_off', 0), crashed = crashed - ifnull(CASE WHEN old.state = 'ended' THEN CASE old.reason WHEN 'switched_off' THEN 'switched_off' WHEN 'crashed' THEN 'crashed' WHEN 'killed' THEN 'killed' ELSE 'well' END END = 'crashed', 0), killed = killed - ifnull(CASE WHEN old.state = 'ended' THEN CASE old.reason WHEN 'switched_off' THEN 'switched_off' WHEN 'crashed' THEN 'crashed' WHEN 'killed' THEN 'killed' ELSE 'well' END END = 'killed', 0) WHERE name IN (1, ifnull(old.version, 0));
    DELETE FROM versions WHERE name = ifnull(old.version, 0) AND NOT (unended OR well OR switched_off OR crashed OR killed);
    UPDATE versions SET newest =
        ifnull((SELECT max(first_received) FROM sessions WHERE version IS old.version), newest)
        WHERE name = ifnull(old.version, 0) AND newest = old.first_received;
END;
CREATE TRIGGER sessions_add
AFTER UPDATE OF events, deleted, repeats, faults, missing, waiting ON sessions BEGIN
    UPDATE totals SET events = events + (new.events - new.deleted) - (old.events - old.deleted), repeats = repeats + (new.repeats) - (old.repeats), faults = faults + (new.faults) - (old.faults), missing_parts = missing_parts + (new.missing / 4294967296) - (old.missing / 4294967296), missing_rest = missing_rest + (new.missing % 4294967296) - (old.missing % 4294967296), waiting_parts = waiting_parts + (iif((new.missing > 1000000000000), 0, new.waiting / 4294967296)) - (iif((old.missing > 1000000000000), 0, old.waiting / 4294967296)), waiting_rest = waiting_rest + (iif((new.missing > 1000000000000), 0, new.waiting % 4294967296)) - (iif((old.missing > 1000000000000), 0, old.waiting % 4294967296)), implausible = implausible + ((new.missing > 1000000000000)) - ((old.missing > 1000000000000)), implausible_parts = implausible_parts + (iif((new.missing > 1000000000000), new.missing / 4294967296, 0)) - (iif((old.missing > 1000000000000), old.missing / 4294967296, 0)), implausible_rest = implausible_rest + (iif((new.missing > 1000000000000), new.missing % 4294967296, 0)) - (iif((old.missing > 1000000000000), old.missing % 4294967296, 0));
END;
CREATE TRIGGER sessions_turn AFTER UPDATE OF version, state, reason ON sessions
WHEN (old.version IS NOT new.version OR CASE WHEN old.state = 'ended' THEN CASE old.reason WHEN 'switched_off' THEN 'switched_off' WHEN 'crashed' THEN 'crashed' WHEN 'killed' THEN 'killed' ELSE 'well' END END IS NOT CASE WHEN new.state = 'ended' THEN CASE new.reason WHEN 'switched_off' THEN 'switched_off' WHEN 'crashed' THEN 'crashed' WHEN 'killed' THEN 'killed' ELSE 'well' END END) BEGIN
    UPDATE unended SET sessions = sessions - 1
        WHERE version IN (1, ifnull(old.version, 0)) AND period = old.last_received / 5000 AND old.state IS NOT 'ended';
    DELETE FROM unended WHERE version IN (1, ifnull(old.version, 0)) AND period = old.last_received / 5000 AND sessions = 0;
    UPDATE versions SET unended = unended - (old.state IS NOT 'ended'), well = well - ifnull(CASE WHEN old.state = 'ended' THEN CASE old.reason WHEN 'switched_off' THEN 'switched_off' WHEN 'crashed' THEN 'crashed' WHEN 'killed' THEN 'killed' ELSE 'well' END END = 'well', 0), switched_off = switched_off - ifnull(CASE WHEN old.state = 'ended' THEN CASE old.reason WHEN 'switched_off' THEN 'switched_off' WHEN 'crashed' THEN 'crashed' WHEN 'killed' THEN 'killed' ELSE 'well' END END = 'switched_off', 0), crashed = crashed - ifnull(CASE WHEN old.state = 'ended' THEN CASE old.reason WHEN 'switched_off' THEN 'switched_off' WHEN 'crashed' THEN 'crashed' WHEN 'killed' THEN 'killed' ELSE 'well' END END = 'crashed', 0), killed = killed - ifnull(CASE WHEN old.state = 'ended' THEN CASE old.reason WHEN 'switched_off' THEN 'switched_off' WHEN 'crashed' THEN 'crashed' WHEN 'killed' THEN 'killed' ELSE 'well' END END = 'killed', 0) WHERE name IN (1, ifnull(old.version, 0));
    DELETE FROM versions WHERE name = ifnull(old.version, 0) AND NOT (unended OR well OR switched_off OR crashed OR killed);
    UPDATE versions SET newest =
        ifnull((SELECT max(first_received) FROM sessions WHERE version IS old.version), newest)
        WHERE name = ifnull(old.version, 0) AND newest = old.first_received;
    INSERT INTO versions VALUES (ifnull(new.version, 0), new.first_received, 0, 0, 0, 0, 0) ON CONFLICT DO NOTHING;
    UPDATE versions SET newest = max(newest, new.first_received), unended = unended + (new.state IS NOT 'ended'), well = well + ifnull(CASE WHEN new.state = 'ended' THEN CASE new.reason WHEN 'switched_off' THEN 'switched_off' WHEN 'crashed' THEN 'crashed' WHEN 'killed' THEN 'killed' ELSE 'well' END END = 'well', 0), switched_off = switched_off + ifnull(CASE WHEN new.state = 'ended' THEN CASE new.reason WHEN 'switched_off' THEN 'switched_off' WHEN 'crashed' THEN 'crashed' WHEN 'killed' THEN 'killed' ELSE 'well' END END = 'switched_off', 0), crashed = crashed + ifnull(CASE WHEN new.state = 'ended' THEN CASE new.reason WHEN 'switched_off' THEN 'switched_off' WHEN 'crashed' THEN 'crashed' WHEN 'killed' THEN 'killed' ELSE 'well' END END = 'crashed', 0), killed = killed + ifnull(CASE WHEN new.state = 'ended' THEN CASE new.reason WHEN 'switched_off' THEN 'switched_off' WHEN 'crashed' THEN 'crashed' WHEN 'killed' THEN 'killed' ELSE 'well' END END = 'killed', 0)
        WHERE name IN (1, ifnull(new.version, 0));
    INSERT INTO unended
        SELECT name, new.last_received / 5000, 1 FROM versions
        WHERE name IN (1, ifnull(new.version, 0)) AND new.state IS NOT 'ended'
        ON CONFLICT DO UPDATE SET sessions = sessions + 1;
END;
CREATE TRIGGER sessions_stay AFTER UPDATE OF last_received ON sessions
WHEN old.last_received / 5000 <> new.last_received / 5000 AND NOT (old.version IS NOT new.version OR CASE WHEN old.state = 'ended' THEN CASE old.reason WHEN 'switched_off' THEN 'switched_off' WHEN 'crashed' THEN 'crashed' WHEN 'killed' THEN 'killed' ELSE 'well' END END IS NOT CASE WHEN new.state = 'ended' THEN CASE new.reason WHEN 'switched_off' THEN 'switched_off' WHEN 'crashed' THEN 'crashed' WHEN 'killed' THEN 'killed' ELSE 'well' END END)
BEGIN
    UPDATE unended SET sessions = sessions - 1
        WHERE version IN (1, ifnull(old.version, 0)) AND period = old.last_received / 5000 AND old.state IS NOT 'ended';
    DELETE FROM unended WHERE version IN (1, ifnull(old.version, 0)) AND period = old.last_received / 5000 AND sessions = 0;
    INSERT INTO unended
        SELECT name, new.last_received / 5000, 1 FROM versions
        WHERE name IN (1, ifnull(new.version, 0)) AND new.state IS NOT 'ended'
        ON CONFLICT DO UPDATE SET sessions = sessions + 1;
END;
DELETE FROM "sqlite_sequence";
INSERT INTO "sqlite_sequence" VALUES('events',5);
INSERT INTO "sqlite_sequence" VALUES('rejected',1);
COMMIT;
PRAGMA application_id = 1383481972;
PRAGMA user_version = 4;
