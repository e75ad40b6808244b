"""The collector: a server that receives, stores and shows what games send.

It needs the extra ``redvsblue-telemetry[collector]``. Data flows one way: ``ingest`` parses
messages (``messages``) and submits them to ``storage``, whose thread writes the database; what is
stored goes on to ``http.live`` and ``http.metrics``. ``http.api`` reads the database,
``http.access`` checks every request before anything else does, ``app`` wires the parts together,
and ``server`` runs them.
"""
