"""The collector: a server that receives, stores and shows what games send.

It needs the extra ``redvsblue-telemetry[collector]``. Data flows one way: ``ingest`` reads messages
(``wire``) and hands them to ``storage``, the thread that writes into the ``database``; what is
written goes to ``live``. ``queries`` and ``reading`` read, ``api`` and ``pages`` show, ``access``
stands before all, ``app`` puts it together, and ``server`` gives it a port.
"""
