"""Beyond one machine: gateways, a replicated log, loaders and a lake. Needs the extra ``cluster``.

Data flows one way: clients send to gateways, a gateway publishes each message to the stream, a
loader moves the stream into the lake, and people read the lake.
"""
